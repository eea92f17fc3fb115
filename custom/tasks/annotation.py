# SPDX-License-Identifier: Apache-2.0
"""Learning from scans that another program names one by one, as MONAI Label does with those that were just annotated.

Such a program sets ``train#dataset#data`` and ``validate#dataset#data`` of a config. There may be few scans, none to
validate on, and there are none to test on. What was learnt goes where that program looks for it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from torch.utils.data import Subset

from custom.files import write_atomically
from custom.tasks.record import record_path
from datasets import Datalist, ScanDataset, load_datalist

logger = logging.getLogger(__name__)


def datalist_if_any(dataset_dir: str | Path | None) -> Datalist:
    """Return the scans of a folder, see :func:`datasets.load_datalist`; for None a list without any."""
    if dataset_dir is None:
        return Datalist(root=Path(), layout="named by a program", items=[], classes=[], spatial_dims=0)
    return load_datalist(dataset_dir)


class TwiceTheOne(Subset):
    """A data set of one scan as two, each with random changes of its own: batch normalisation needs two.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: ScanDataset) -> None:
        super().__init__(dataset, [0, 0])
        self.transform = dataset.transform  # is seeded every epoch


def at_least_two(dataset: ScanDataset) -> ScanDataset | TwiceTheOne:
    """Return the data set, or where it has one scan, :class:`TwiceTheOne`."""
    return TwiceTheOne(dataset) if len(dataset) == 1 else dataset


def validation_scans(
    data: Sequence[Mapping[str, Any]],
    otherwise: Sequence[Mapping[str, Any]],
    transform: Callable,
    skip_bad: bool = False,
) -> ScanDataset:
    """Return the scans that choose the best epoch; where there are none, those that were learnt from do.

    Args:
        data: scans to validate on.
        otherwise: the training scans.
        transform: see :class:`datasets.ScanDataset`.
        skip_bad: likewise.
    """
    if not data:
        logger.warning("No scans to validate on: the %d training scans choose the best epoch.", len(otherwise))
    return ScanDataset(data or otherwise, transform, skip_bad)


def held_out_scans(
    data: Sequence[Mapping[str, Any]], transform: Callable, skip_bad: bool = False, may_lack: bool = False
) -> Dataset:
    """Return the scans to test on.

    Args:
        data: the scans.
        transform: see :class:`datasets.ScanDataset`.
        skip_bad: likewise.
        may_lack: whether there may be none.

    Raises:
        ScanError: if there is none and there must be.
    """
    return Dataset([]) if may_lack and not data else ScanDataset(data, transform, skip_bad)


def publish(model: str | Path, folder: str | Path) -> list[Path]:
    """Copy a trained model and its record, each whole or not at all.

    Args:
        model: ``model.pt``, with ``model.json`` beside it.
        folder: where they go, in place of those that are there.

    Returns:
        The copies.
    """

    def copied(source: Path) -> Path:
        return write_atomically(Path(folder) / source.name, lambda target: shutil.copyfile(source, target))

    copies = [copied(Path(model)), copied(record_path(model))]
    logger.info("The trained model is now %s.", copies[0])
    return copies
