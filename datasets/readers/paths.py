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
    require_inside(root, [path], source, f"{where}: ")
    if path.is_dir():
        require_inside(root, path.iterdir(), source, f"{where}: ")
    return path.absolute()


def leads_out(root: Path, path: Path) -> bool:
    """Whether a path below a folder leads out of it, by a link somewhere on the way; the folder may be one itself."""
    return not path.resolve().is_relative_to(root.resolve())


def require_inside(root: Path, paths: Iterable[Path], source: Path, where: str = "") -> None:
    """Raise a ScanError that counts the paths that lead out of a folder and names the first.

    What comes with data does not decide which file elsewhere is read: this is so of lists, of what lies beside them and
    of what is found in folders.
    """
    outside = [path for path in paths if leads_out(root, path)]
    if outside:
        name = outside[0].relative_to(root).as_posix()
        more = f", as are {len(outside) - 1} others" if len(outside) > 1 else ""
        problem = f"{where}the path {name!r} is a link that leaves the folder{more}"
        raise ScanError(source, problem, "Put the files themselves there, or name the folder that holds them all.")


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

    Raises:
        ScanError: links that lead out of the folder and are not passed over by their names.
    """
    found, ignored, links = [], Counter[str](), []
    for path in sorted(folder.rglob("*")):
        reason = _why_ignored_by_name(path.relative_to(folder))
        if not reason and leads_out(folder, path):
            links.append(path)
            continue
        if path.is_dir():
            if path.is_symlink():
                ignored["links to folders"] += 1
            continue
        reason = reason or _why_ignored_by_format(path)
        if reason:
            ignored[reason] += 1
        else:
            found.append(path)
    require_inside(folder, links, folder)
    ignored.pop("companion", None)
    if ignored:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()))
        logger.info("%s: %d files are no scans and were ignored (%s)", folder, ignored.total(), counts)
    return found


def _why_ignored_by_name(relative: Path) -> str:
    if any(part.startswith(".") for part in relative.parts):
        return "hidden"
    if relative.name.upper() == "DICOMDIR":
        return "DICOM directory"
    return "companion" if relative.suffix.lower() in _COMPANIONS else ""


def _why_ignored_by_format(path: Path) -> str:
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
