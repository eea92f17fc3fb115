# SPDX-License-Identifier: Apache-2.0
"""Paths as lists of scans name them, and the scans that lie below a folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets.errors import ScanError
from datasets.formats import ACCEPTED, DICOM, format_by_content, format_by_name

logger = logging.getLogger(__name__)

_COMPANIONS = {".csv", ".json", ".md", ".txt", ".yaml", ".yml"}  # belong beside scans: not worth a word


def resolve_inside(root: Path, name: str, source: Path, where: str) -> Path:
    """Return the absolute path of an entry of a list, which must lie below the list's folder.

    Args:
        root: folder of the list.
        name: relative path, with "/" between folders.
        source: the list, for messages.
        where: its line or entry, for messages.

    Raises:
        ScanError: an absolute path, one with "..", or a link that leads out.
    """
    remedy = "Give paths relative to this file, inside its folder."
    absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    if absolute or ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        raise ScanError(source, f"{where}: the path {name!r} leaves the folder", remedy)
    path = root / PurePosixPath(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ScanError(source, f"{where}: the path {name!r} is a link that leaves the folder", remedy)
    return path.absolute()


def require_files(source: Path, paths: Iterable[Path]) -> None:
    """Raise a ScanError that counts the missing files and names the first ones."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ScanError(
            source, f"{len(missing)} files do not exist: {shown}", "Complete the folder, or take their entries out."
        )


def scan_id(root: Path, path: Path) -> str:
    """Posix path of a scan relative to its root."""
    return path.relative_to(root).as_posix()


def scan_files(folder: Path) -> list[Path]:
    """Files below a folder that look like scans, sorted; one log line counts what was passed over.

    Args:
        folder: searched with everything below it. Hidden files and folders and ``._*`` files are passed over.
    """
    found, ignored = [], Counter[str]()
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        reason = _why_ignored(path, path.relative_to(folder))
        if reason:
            ignored[reason] += 1
        else:
            found.append(path)
    ignored.pop("companion", None)
    if ignored:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()))
        logger.info("%s: %d files are no scans and were ignored (%s)", folder, ignored.total(), counts)
    return found


def _why_ignored(path: Path, relative: Path) -> str:
    if any(part.startswith(".") for part in relative.parts):
        return "hidden"
    if path.name.upper() == "DICOMDIR":
        return "DICOM directory"
    if path.suffix.lower() in _COMPANIONS:
        return "companion"
    if format_by_name(path) is None and not _is_dicom(path):
        return f"with extension {path.suffix!r}" if path.suffix else "without extension"
    return ""


def _is_dicom(path: Path) -> bool:
    try:
        return format_by_content(path) == DICOM
    except OSError:
        return False


def no_scans(folder: Path) -> ScanError:
    """Error for a folder without any scan."""
    return ScanError(folder, "no scan was found here", ACCEPTED)
