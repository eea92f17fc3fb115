# SPDX-License-Identifier: Apache-2.0
"""Folders whose sub-folders are splits or classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.formats import DICOM, format_by_name
from datasets.readers.splits import split_by_hash

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def label_by_folders(items: Sequence[dict[str, Any]], seed: int) -> str:
    """Add split and label to items as their folders tell, and return the name of the layout.

    - ``train/``, ``val/``, ``test/`` (or validation, ...) at the top are splits, folders in them are classes.
    - Otherwise folders at the top are classes if there are two at least, no scan lies beside them, and they hold two
      scans each on average (else they are patients). Classes are split 70/15/15, by a hash of seed and scan id.
      Folders of DICOM alone are patients or studies, never classes, unless they lie in folders of splits.
    - Otherwise everything is ``train``, unlabelled.

    Args:
        items: with ``scan_id``; changed in place.
        seed: of the split.
    """
    tops = [PurePosixPath(item["scan_id"]).parts for item in items]
    names = {parts[0] if len(parts) > 1 else "" for parts in tops}
    if names and all(name.lower() in _SPLIT_NAMES for name in names):
        return _label_in_splits(items, tops)
    dicom = all("series_uid" in item or format_by_name(Path(item["image"])) in (DICOM, None) for item in items)
    if "" in names or len(names) < 2 or len(items) < 2 * len(names) or dicom:
        for item in items:
            item["split"] = "train"
        return "DICOM series" if dicom else "plain folder"
    for item, parts in zip(items, tops, strict=True):
        item["label_name"] = parts[0]
    _split_classes(items, seed)
    return "class folders"


def _label_in_splits(items: Sequence[dict[str, Any]], tops: Sequence[tuple[str, ...]]) -> str:
    classes = all(len(parts) > 2 for parts in tops) and len({parts[1] for parts in tops}) > 1
    for item, parts in zip(items, tops, strict=True):
        item["split"] = _SPLIT_NAMES[parts[0].lower()]
        if classes:
            item["label_name"] = parts[1]
    return "class folders in split folders" if classes else "split folders"


def _split_classes(items: Sequence[dict[str, Any]], seed: int) -> None:
    """Split every class alike."""
    for name in {item["label_name"] for item in items}:
        members = [item for item in items if item["label_name"] == name]
        splits = split_by_hash((item["scan_id"] for item in members), seed)
        for item in members:
            item["split"] = splits[item["scan_id"]]
