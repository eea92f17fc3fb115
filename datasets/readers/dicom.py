# SPDX-License-Identifier: Apache-2.0
"""DICOM through ITK's GDCM reader: finding series, checking that they are volumes, reading them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import ScanError
from datasets.formats import DICOM, scan_format

logger = logging.getLogger(__name__)

COPY = "Copy the file again from its source, or leave it out (--skip_bad true)."
CONVERT = "Convert it to NIfTI with a tool that sorts this out (dcm2niix does), or leave it out."
ORIENTATION = "0020|0037"  # ImageOrientationPatient: of slices, not of projections
_NEEDED = ("0008|0008", "0028|0004", ORIENTATION)  # and ImageType, PhotometricInterpretation
_PARALLEL = 1e-3  # difference of direction cosines that still counts as parallel (rounding in the header)
_UNEVEN = 0.1  # deviation of a gap between slices from the median gap, as a share of it
_TILT = 0.05  # sideways step from slice to slice, as a share of the step forward; 0.05 is 2.9 degrees


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says.

    Attributes:
        size: columns, rows, frames.
        origin: position of the first pixel's centre in millimetres, LPS+.
        directions: unit vectors of rows, columns and normal, ``[3, 3]``, one in a row.
        components: numbers a pixel, 3 for colour.
        pixel: ITK's name of their type, such as "unsigned_char".
        tags: values as text, by "group|element".
    """

    size: tuple[int, int, int]
    origin: np.ndarray
    directions: np.ndarray
    components: int
    pixel: str
    tags: Mapping[str, str]


# What tags say of a scan's content; the name is that of the DICOM standard, part 6.
DESCRIBING = {
    "Modality": "0008|0060",
    "BodyPartExamined": "0018|0015",
    "StudyDescription": "0008|1030",
    "SeriesDescription": "0008|103e",
    "ProtocolName": "0018|1030",
}


def describing_tags(path: str | Path, series_uid: str | None = None) -> dict[str, str]:
    """Return the DICOM tags that say what a scan shows, from the header of its first file.

    Args:
        path: a scan: a file, or a folder with a DICOM series.
        series_uid: which series of the folder.

    Returns:
        Values of :data:`DESCRIBING`, without those that are missing or empty; nothing for a scan that is not DICOM.

    Raises:
        ScanError: a DICOM file that cannot be interpreted.
    """
    if not Path(path).is_dir() and scan_format(path) != DICOM:
        return {}
    found = read_header(series_files(path, series_uid)[0]).tags
    return {name: found[key] for name, key in DESCRIBING.items() if found.get(key)}


def series_in(folder: str | Path) -> dict[str, list[str]]:
    """Return the DICOM series of a folder (not of those below it) by SeriesInstanceUID.

    Args:
        folder: an existing folder.

    Returns:
        Files of each series, sorted along the normal of the slices.
    """
    folder = Path(folder)
    return dict(_series_in(str(folder), folder.stat().st_mtime_ns))


@lru_cache(maxsize=64)  # each scan of a folder asks for the same list
def _series_in(folder: str, modified: int) -> dict[str, list[str]]:
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(False)
    names.SetRecursive(False)
    with _without_warnings():
        names.SetDirectory(folder)
        return {uid: [str(file) for file in names.GetFileNames(uid)] for uid in names.GetSeriesUIDs()}


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


def read_header(file: str) -> Slice:
    """Read the header of a DICOM file.

    Raises:
        ScanError: a file that GDCM cannot interpret.
    """
    import itk

    io = itk.GDCMImageIO.New()
    io.SetFileName(file)
    try:
        io.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(file, f"truncated, or no DICOM image ({last_line(error)})", COPY) from error
    tags = io.GetMetaDataDictionary()
    columns, rows, frames = (io.GetDimensions(axis) if axis < io.GetNumberOfDimensions() else 1 for axis in range(3))
    return Slice(
        size=(columns, rows, frames),
        origin=np.array([io.GetOrigin(axis) for axis in range(3)]),
        directions=np.array([io.GetDirection(axis) for axis in range(3)]),
        components=io.GetNumberOfComponents(),
        pixel=io.GetComponentTypeAsString(io.GetComponentType()),
        tags={key: _text(tags[key]) for key in (*_NEEDED, *DESCRIBING.values()) if tags.HasKey(key)},
    )


def _text(value: Any) -> str:
    """A tag's value; ITK hands bytes that are not UTF-8 over as lone surrogates, which are read as Latin-1 here."""
    raw = str(value).encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip().strip("\0")


def read_series(path: str | Path, series_uid: str | None) -> tuple[Any, int]:
    """Read a DICOM series or file.

    Args:
        path: folder or file.
        series_uid: which series of the folder.

    Returns:
        The ITK image and its number of frames (1 unless it is one multi-frame file).

    Raises:
        ScanError: a series that is no volume, or a file that cannot be decoded.
    """
    import itk

    files = series_files(path, series_uid)
    headers = [read_header(file) for file in files]
    if "MOSAIC" in headers[0].tags.get("0008|0008", ""):
        raise ScanError(path, "a mosaic: the slices of a volume as tiles of one picture", CONVERT)
    if headers[0].components > 1 and headers[0].pixel != "unsigned_char":  # ITK's Python has no image type for it
        problem = f"pixels of {headers[0].components} components of more than 8 bits are not read"
        raise ScanError(path, problem, "Save it as 8-bit colour, or as grey.")
    if len(files) > 1:
        _check_volume(path, headers)
    if headers[0].tags.get("0028|0004") == "MONOCHROME1":
        logger.info("%s: stored inverted (MONOCHROME1); GDCM turns the grey levels over", path)
    # Rescale slope and type may differ from slice to slice, and ITK takes the first one's type for all.
    pixel = itk.F if headers[0].components == 1 else None
    try:
        with _without_warnings():
            image = itk.imread(files if len(files) > 1 else files[0], pixel_type=pixel)
    except RuntimeError as error:
        problem = f"its pixels cannot be decoded: truncated, or a compression without codec ({last_line(error)})"
        raise ScanError(path, problem, CONVERT) from error
    return image, headers[0].size[2] if len(files) == 1 else 1


def last_line(error: Exception) -> str:
    """Return the telling part of one of ITK's messages, which start with source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return re.sub(r"^ITK ERROR: \w+\(0x[0-9a-f]+\): ", "", lines[-1])[:200].rstrip(".")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep ITK's warnings, which name no file, off the console: what they are about is checked here."""
    import itk

    shown = itk.Object.GetGlobalWarningDisplay()
    itk.Object.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        itk.Object.SetGlobalWarningDisplay(shown)


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
