# SPDX-License-Identifier: Apache-2.0
"""A folder of DICOM series, found by their identifiers through ITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets.errors import ScanError
from datasets.readers.plain import DICOM, images_below


def matches(root: Path) -> bool:
    """Whether all images below the folder are DICOM files."""
    paths = list(images_below(root))
    return bool(paths) and all(path.name.lower().endswith(DICOM) for path in paths)


def read(root: Path, **_: Any) -> list[dict[str, Any]]:
    """List every series of every folder below ``root``.

    Raises:
        ScanError: if no folder holds a series.
    """
    folders = sorted({path.parent for path in images_below(root)})
    items = [item for folder in folders for item in _series_of(root, folder)]
    if not items:
        raise ScanError(root, "no DICOM series found", "Are the files complete?")
    return items


def series_files(folder: Path) -> dict[str, list[str]]:
    """Files of each series of a folder, in slice order, by series identifier."""
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.SetDirectory(str(folder))
    return {uid: list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}


def _series_of(root: Path, folder: Path) -> list[dict[str, Any]]:
    name = folder.relative_to(root).as_posix()
    uids = sorted(series_files(folder))
    return [
        {
            "image": str(folder.resolve()),
            "series_uid": uid,
            "scan_id": name if len(uids) == 1 and name != "." else f"{name}/{uid}".removeprefix("./"),
            "split": "train",
        }
        for uid in uids
    ]
