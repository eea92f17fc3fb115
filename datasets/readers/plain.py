# SPDX-License-Identifier: Apache-2.0
"""Scans that lie in a folder without any list: pictures, volumes, DICOM series."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets.formats import DICOM, format_by_name
from datasets.readers.dicom import series_in
from datasets.readers.paths import scan_files, scan_id


def scans_below(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Return an item for every scan below a folder: a file each, and a DICOM series each.

    Args:
        root: folder to which scan ids are relative.
        folder: where to look, recursively.

    Returns:
        Items with ``image`` and ``scan_id``; series of several files have their folder as ``image`` and ``series_uid``.
    """
    files = scan_files(folder)
    dicom = [path for path in files if is_dicom_name(path)]
    others = set(files) - set(dicom)
    items = [{"image": str(path), "scan_id": scan_id(root, path)} for path in others]
    items += _series_items(root, dicom)
    return sorted(items, key=lambda item: item["scan_id"])


def is_dicom_name(path: Path) -> bool:
    """Whether a file that was found to be a scan is DICOM: by its extension, or for want of another."""
    return format_by_name(path) in (DICOM, None)


def _series_items(root: Path, files: Iterable[Path]) -> list[dict[str, Any]]:
    by_folder: dict[Path, set[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, set()).add(file)
    items: list[dict[str, Any]] = []
    for folder, members in by_folder.items():
        several = {uid: parts for uid, parts in series_in(folder).items() if len(parts) > 1}
        singles = members - {Path(part) for parts in several.values() for part in parts}
        items += [{"image": str(path), "scan_id": scan_id(root, path)} for path in singles]
        alone = len(several) == 1 and not singles and folder != root
        for uid in several:
            name = scan_id(root, folder) if alone else (folder / uid).relative_to(root).as_posix()
            items.append({"image": str(folder), "scan_id": name, "series_uid": uid})
    return items
