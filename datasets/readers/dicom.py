# SPDX-License-Identifier: Apache-2.0
"""DICOM: finding series, checking that they are volumes, reading them through ITK's GDCM reader."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets import itk_process
from datasets.claims import MAX_VOXELS, check_bound
from datasets.errors import ScanError
from datasets.formats import DICOM, is_dicom, scan_format
from datasets.itk_process import ItkImage
from datasets.readers.dicom_header import DESCRIBING, Slice, read_header

logger = logging.getLogger(__name__)

CONVERT = "Convert it to NIfTI with a tool that sorts this out (dcm2niix does), or leave it out."
_PARALLEL = 1e-3  # difference of direction cosines that still counts as parallel (rounding in the header)
_UNEVEN = 0.1  # deviation of a gap between slices from the median gap, as a share of it
_TILT = 0.05  # sideways step from slice to slice, as a share of the step forward; 0.05 is 2.9 degrees


def describing_tags(path: str | Path, series_uid: str | None = None) -> dict[str, str]:
    """Return the DICOM tags that say what a scan shows, from the header of its first file.

    Args:
        path: a scan: a file, or a folder with a DICOM series.
        series_uid: which series of the folder.

    Returns:
        Values of `DESCRIBING`, without those that are missing or empty; nothing for a scan that is not DICOM.

    Raises:
        ScanError: a DICOM file that cannot be interpreted.
    """
    if not Path(path).is_dir() and scan_format(path) != DICOM:
        return {}
    found = read_header(series_files(path, series_uid)[0]).tags
    return {name: found[key] for name, key in DESCRIBING.items() if found.get(key)}


def series_in(folder: str | Path) -> dict[str, list[str]]:
    """Return the DICOM series of a folder (not of those below it) by SeriesInstanceUID.

    Files whose header makes no image are in none of them; the log counts them and names the first.

    Args:
        folder: an existing folder.

    Returns:
        Files of each series, sorted along the normal of the slices.
    """
    folder = Path(folder)
    return dict(_series_in(str(folder), folder.stat().st_mtime_ns))


@lru_cache(maxsize=64)  # each scan of a folder asks for the same list
def _series_in(folder: str, modified: int) -> dict[str, list[str]]:
    found: dict[str, dict[str, Slice]] = {}
    refused: list[ScanError] = []
    for file in sorted(Path(folder).iterdir()):
        if file.name.startswith(".") or not file.is_file() or not is_dicom(file):
            continue
        try:
            header = read_header(file)
        except ScanError as error:
            refused.append(error)
        else:
            found.setdefault(header.series, {})[str(file)] = header
    if refused:
        logger.warning("%s: %d DICOM files are no images that can be read: %s", folder, len(refused), refused[0])
    return {uid: _sorted(headers) for uid, headers in sorted(found.items())}


def _sorted(headers: dict[str, Slice]) -> list[str]:
    """Files along the normal of the first; what lies at one place by number and name."""
    normal = next(iter(headers.values())).directions[2]
    return sorted(headers, key=lambda file: (headers[file].origin @ normal, headers[file].instance, file))


def series_files(path: str | Path, series_uid: str | None) -> list[str]:
    """Return the files of a series.

    Args:
        path: a file, or a folder with one series or with the named one.
        series_uid: SeriesInstanceUID; None where there is one series only.

    Raises:
        ScanError: no series, or several and none is named.
    """
    if not Path(path).is_dir():
        return [str(path)]
    series = series_in(path)
    if not series:
        raise ScanError(path, "no DICOM file was found in this folder", "Name a folder of DICOM files, or a file.")
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    if series_uid in series:
        return series[str(series_uid)]
    wanted = f"series {series_uid} is not among the" if series_uid else "holds"
    problem = f"{wanted} {len(series)} series: {', '.join(series)}"
    raise ScanError(path, problem, "Give each series a folder of its own.")


def read_series(path: str | Path, series_uid: str | None, max_voxels: int = MAX_VOXELS) -> tuple[ItkImage, int]:
    """Read a DICOM series or file.

    Args:
        path: folder or file.
        series_uid: which series of the folder.
        max_voxels: most voxels, of all its files together.

    Returns:
        The image and its number of frames (1 unless it is one multi-frame file).

    Raises:
        ScanError: a series that is no volume, or a file that cannot be decoded.
    """
    files = series_files(path, series_uid)
    headers = [read_header(file) for file in files]
    if "MOSAIC" in headers[0].tags.get("0008|0008", ""):
        raise ScanError(path, "a mosaic: the slices of a volume as tiles of one picture", CONVERT)
    if headers[0].components > 1 and not headers[0].eight_bits:  # ITK's Python has no image type for it
        problem = f"pixels of {headers[0].components} components of more than 8 bits are not read"
        raise ScanError(path, problem, "Save it as 8-bit colour, or as grey.")
    if len(files) > 1:
        _check_volume(path, headers)
    columns, rows, frames = headers[0].size
    shape = (columns, rows, frames * len(files))  # the slices of a volume are equal
    check_bound(path, shape, max_voxels)
    if headers[0].tags.get("0028|0004") == "MONOCHROME1":
        logger.info("%s: stored inverted (MONOCHROME1); GDCM turns the grey levels over", path)
    return _decoded(path, files, headers[0].components, math.prod(shape)), frames if len(files) == 1 else 1


def _decoded(path: str | Path, files: Sequence[str], components: int, voxels: int) -> ItkImage:
    grey, size = components == 1, 4 * voxels * components
    try:
        return itk_process.read_dicom(files, grey, size)
    except RuntimeError as error:
        culprit = _culprit(files, grey, size) if len(files) > 1 else None
        told, reason = culprit or (path, error)
        problem = f"its pixels cannot be decoded: truncated, or a compression without codec ({last_line(reason)})"
        raise ScanError(told, problem, CONVERT) from error


def _culprit(files: Sequence[str], grey: bool, size: int) -> tuple[str, RuntimeError] | None:
    """The first file of a series that cannot be decoded by itself, and why."""
    for file in files:
        try:
            itk_process.read_dicom([file], grey, size)
        except RuntimeError as error:
            return file, error
    return None


def last_line(error: Exception) -> str:
    """Return the telling part of one of ITK's messages, which start with source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return re.sub(r"^ITK ERROR: \w+\(0x[0-9a-f]+\): ", "", lines[-1])[:200].rstrip(".")


def _check_volume(path: str | Path, slices: Sequence[Slice]) -> None:
    """Raise unless the slices are equal, parallel, evenly spaced and not sheared."""
    if len({(item.size, item.components) for item in slices}) > 1:
        sizes = sorted({item.size for item in slices})
        raise ScanError(path, f"the slices of the series differ in size or colour: {sizes}", CONVERT)
    if slices[0].size[2] > 1:
        raise ScanError(path, f"{len(slices)} multi-frame files of {slices[0].size[2]} frames in one series", CONVERT)
    directions = np.stack([item.directions for item in slices])
    if np.abs(directions - directions[0]).max() > _PARALLEL:
        raise ScanError(path, f"no volume: the {len(slices)} slices are not parallel", CONVERT)
    steps = np.diff(np.stack([item.origin for item in slices]), axis=0)
    forward = steps @ directions[0, 2]
    if np.abs(forward).min() < 1e-3:
        problem = f"no volume: several of the {len(slices)} images lie at one position (times, echoes, or no positions)"
        raise ScanError(path, problem, CONVERT)
    gaps = np.abs(forward)
    if np.abs(gaps - np.median(gaps)).max() > _UNEVEN * np.median(gaps):
        problem = f"the distance between slices is inconsistent: {gaps.min():.2f} to {gaps.max():.2f} mm"
        raise ScanError(path, problem, f"Slices may be missing. {CONVERT}")
    sideways = np.linalg.norm(steps - forward[:, None] * directions[0, 2], axis=1)
    if (sideways / gaps).max() > _TILT:
        angle = np.degrees(np.arctan((sideways / gaps).max()))
        raise ScanError(path, f"gantry tilt: the slices are sheared by {angle:.1f} degrees", CONVERT)
