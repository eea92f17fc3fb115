# SPDX-License-Identifier: Apache-2.0
"""Scans with label maps, and what must be true of them before a network is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from custom.tasks.images import check_images
from custom.tasks.labelled import HOW_TO_SPLIT, warn_of_shared_groups
from custom.tasks.segmentation.classes import HOW_TO_LABEL, LabelClasses, check_codes
from datasets import Datalist

logger = logging.getLogger(__name__)


def segmentation_items(datalist: Datalist, split: str) -> list[dict[str, Any]]:
    """Return the scans of a split that have a label map; where only some have, a log line counts the others.

    Args:
        datalist: the data set.
        split: "train", "val" or "test".

    Returns:
        Items with ``image`` and ``label``, both paths (what MONAI Label gives, too), ``scan_id`` and, of DICOM series,
        ``series_uid``.
    """
    items = datalist.split(split)
    labelled = [{**_source(item), "label": item["mask"]} for item in items if "mask" in item]
    if 0 < len(labelled) < len(items):
        logger.warning("%s: %d of %d scans have no label map.", split, len(items) - len(labelled), len(items))
    return labelled


def new_items(datalist: Datalist) -> list[dict[str, Any]]:
    """Return all scans of a data set, without labels."""
    return [_source(item) for item in datalist.items]


def check_segmentation(
    datalist: Datalist,
    items: Mapping[str, Sequence[Mapping[str, Any]]],
    classes: LabelClasses,
    spatial_dims: int,
    channels: int,
    image_size: Sequence[int],
    patch_size: Sequence[int] | None,
    encoder: Mapping[str, Any],
    frame: int | None = None,
) -> None:
    """Refuse what cannot give a segmentation network, or a measured one, and say what to do.

    Args:
        datalist: the data set.
        items: "train", "val" and "test" -> scans with label maps.
        classes: what is segmented.
        spatial_dims: 2 or 3.
        channels: of the images.
        image_size: the network's input size, for whole scans.
        patch_size: the same for patches; None: whole scans.
        encoder: facts of the pretrained encoder, empty for training from scratch.
        frame: see :class:`datasets.LoadScand`.

    Raises:
        ValueError: no label maps in a split, no class in the training label maps, an encoder or a size for other scans.
    """
    check_images(spatial_dims, channels, image_size, encoder, patch_size)
    for split, found in items.items():
        if not found:
            raise ValueError(
                f"{datalist.root}: no scan with a label map in the split {split!r}. Val chooses the best epoch, test "
                f"is used once: all three splits are needed. {HOW_TO_LABEL} {HOW_TO_SPLIT}"
            )
    check_codes(classes, items["train"], spatial_dims, frame)
    logger.info("Segmentation of %s, codes %s.", ", ".join(classes.names), dict(classes.rules))
    warn_of_shared_groups(datalist)


def _source(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("image", "scan_id", "series_uid") if key in item}
