# SPDX-License-Identifier: Apache-2.0
"""Folders whose sub-folders are splits or classes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.formats import DICOM, format_by_name

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SHARES = (0.70, 0.15)  # train, val; the rest is test


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
    _split_by_hash(items, seed)
    return "class folders"


def _label_in_splits(items: Sequence[dict[str, Any]], tops: Sequence[tuple[str, ...]]) -> str:
    classes = all(len(parts) > 2 for parts in tops) and len({parts[1] for parts in tops}) > 1
    for item, parts in zip(items, tops, strict=True):
        item["split"] = _SPLIT_NAMES[parts[0].lower()]
        if classes:
            item["label_name"] = parts[1]
    return "class folders in split folders" if classes else "split folders"


def _split_by_hash(items: Sequence[dict[str, Any]], seed: int) -> None:
    """Split every class alike; a class of three or more scans has one in each split at least."""
    by_class: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        by_class[item["label_name"]].append(item)
    for members in by_class.values():
        members.sort(key=lambda item: hashlib.sha256(f"{seed}:{item['scan_id']}".encode()).hexdigest())
        held_out = [max(1, round(share * len(members))) for share in (_SHARES[1], 1 - sum(_SHARES))]
        if len(members) < 3:
            held_out = [0, len(members) - 1]
        for index, item in enumerate(members):
            item["split"] = "val" if index < held_out[0] else "test" if index < sum(held_out) else "train"
