# SPDX-License-Identifier: Apache-2.0
"""What must be true before a classifier is trained, checked before any work is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from custom.metrics import FIGURES
from custom.tasks.labelled import SPLITS, warn_of_shared_groups

if TYPE_CHECKING:
    from datasets import Datalist

logger = logging.getLogger(__name__)

_KEPT = ("image", "label", "scan_id", "series_uid")
_HOW_TO_SPLIT = "Set the column `split` of manifest.csv to train, val or test, or use folders of these names."
_HOW_TO_LABEL = "Name the column with --label_column, or sort the scans into one folder per class."


def labelled_items(datalist: Datalist, split: str) -> list[dict[str, Any]]:
    """Return the labelled scans of a split, with the entries that classification reads.

    Args:
        datalist: the data set.
        split: "train", "val" or "test".
    """
    items = datalist.split(split)
    return [{key: item[key] for key in _KEPT if key in item} for item in items if item.get("label") is not None]


def scan_groups(datalist: Datalist) -> dict[str, Any] | None:
    """Patient of each scan, by scan id; None unless every labelled scan has one."""
    items = [item for item in datalist.items if item.get("label") is not None]
    groups = {item["scan_id"]: item.get("group") for item in items}
    return None if any(group is None or group == "" for group in groups.values()) else groups


def check_classification(
    datalist: Datalist,
    spatial_dims: int,
    channels: int,
    image_size: Sequence[int],
    encoder: Mapping[str, Any],
    key_metric: str = "macro_auroc",
) -> None:
    """Refuse what cannot give a classifier, or a measured one, and say what to do.

    Args:
        datalist: the data set.
        spatial_dims: 2 or 3.
        channels: of the images.
        image_size: the network's input size.
        encoder: facts of the pretrained encoder, empty for training from scratch.
        key_metric: figure by which the best epoch is chosen.

    Raises:
        ValueError: no or too few labels, an empty split, a class without training scans, or an encoder for other
            images.
    """
    if key_metric not in FIGURES:
        raise ValueError(f"Unknown key_metric {key_metric!r}; known: {', '.join(FIGURES)}.")
    _check_image(spatial_dims, channels, image_size, encoder)
    _check_labels(datalist)
    warn_of_shared_groups(datalist)


def _check_image(spatial_dims: int, channels: int, image_size: Sequence[int], encoder: Mapping[str, Any]) -> None:
    if len(image_size) != spatial_dims:
        raise ValueError(
            f"image_size {list(image_size)} has {len(image_size)} numbers for {spatial_dims}D scans. Set --image_size "
            f'"{[64] * spatial_dims}", and use an encoder that was pretrained on {spatial_dims}D scans.'
        )
    if not encoder:
        return
    spec = encoder["encoder"]
    expected = (spec["spatial_dims"], spec.get("in_channels", 1))
    if expected != (spatial_dims, channels):
        raise ValueError(
            f"The encoder takes {expected[0]}D images with {expected[1]} channels; the scans are {spatial_dims}D with "
            f"{channels}. Use an encoder pretrained on such scans, or set --channels {expected[1]}."
        )
    if list(encoder.get("image_size", image_size)) != list(image_size):
        logger.warning("The encoder was pretrained at %s; it is used at %s.", encoder["image_size"], list(image_size))


def _check_labels(datalist: Datalist) -> None:
    labels = {split: {item["label"] for item in labelled_items(datalist, split)} for split in SPLITS}
    if not any(labels.values()):
        raise ValueError(f"{datalist.root}: no scan has a label. {_HOW_TO_LABEL}")
    if len(datalist.classes) < 2:
        raise ValueError(
            f"{datalist.root}: all labels are {datalist.classes}, and one class cannot be told from another. "
            f"{_HOW_TO_LABEL}"
        )
    for split, found in labels.items():
        if not found:
            raise ValueError(
                f"{datalist.root}: no labelled scan in the split {split!r}. Val chooses the best epoch, test is used "
                f"once: all three splits are needed. {_HOW_TO_SPLIT}"
            )
    missing = [name for index, name in enumerate(datalist.classes) if index not in labels["train"]]
    if missing:
        raise ValueError(f"{datalist.root}: the split 'train' has no scan of {missing}. {_HOW_TO_SPLIT}")
    if len(labels["val"]) < 2:
        raise ValueError(f"{datalist.root}: the split 'val' has one class: no choice is possible. {_HOW_TO_SPLIT}")
