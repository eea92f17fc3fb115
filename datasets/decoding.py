# SPDX-License-Identifier: Apache-2.0
"""One file, or one DICOM series, to an array in space: MONAI's readers, one shape of result, one kind of error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import NibabelReader, PILReader
from PIL import Image, ImageOps

from datasets.errors import ScanError
from datasets.formats import DICOM, NIFTI, PICTURE, scan_format
from datasets.itk_process import ItkImage, nrrd_shape, read_nrrd
from datasets.readers.dicom import last_line, read_series, series_files
from datasets.readers.dicom_header import COPY, read_header

_GREY_MODES = ("L", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class RawScan:
    """A scan as it is stored.

    Attributes:
        values: ``[X, Y, Z]``, or ``[X, Y, Z, N]`` with N volumes, frames, vector components or colours. A picture
            has Z = 1.
        affine: voxel to RAS+ millimetres, ``[4, 4]``; None for pictures, which have no place in space.
        colour: whether the last axis is red, green, blue.
        frames_in_z: whether the Z axis counts frames, which may be slices, times or echoes.
    """

    values: np.ndarray
    affine: np.ndarray | None
    colour: bool = False
    frames_in_z: bool = False


def read_scan(path: str | Path, series_uid: str | None = None, codes: bool = False) -> RawScan:
    """Read a scan with the reader of its format.

    Args:
        path: a file, or a folder with a DICOM series.
        series_uid: which series of the folder.
        codes: whether the file is a label map, whose palette indices are its codes.

    Raises:
        ScanError: whatever is wrong with the file.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(path, "the file does not exist", "Check the path; names are case-sensitive.")
    try:
        kind = DICOM if path.is_dir() else scan_format(path)
        if kind == PICTURE:
            return _read_picture(path, codes)
        if kind == NIFTI:
            return _read_nifti(path)
        if kind == DICOM:
            image, frames = read_series(path, series_uid)
            return _read_itk(image, frames > 1)
        return _read_itk(read_nrrd(str(path), 0), False)
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # the readers raise all kinds for damaged files
        raise ScanError(path, f"it cannot be read ({type(error).__name__}: {last_line(error)})", COPY) from error


def scan_dims(path: str | Path, series_uid: str | None = None) -> int:
    """Return 2 for a picture or a single slice, 3 for a volume, reading the header only.

    Raises:
        ScanError: a header that cannot be read.
    """
    path = Path(path)
    try:
        kind = DICOM if path.is_dir() else scan_format(path)
        if kind == DICOM:
            files = series_files(path, series_uid)
            return 3 if len(files) > 1 or read_header(files[0]).size[2] > 1 else 2
        if kind == PICTURE:
            return 2
        shape = NibabelReader().read(path).shape if kind == NIFTI else nrrd_shape(str(path))
    except ScanError:
        raise
    except Exception as error:
        raise ScanError(path, f"it cannot be read ({type(error).__name__}: {last_line(error)})", COPY) from error
    return 3 if sum(side > 1 for side in shape[:3]) > 2 else 2


def _read_picture(path: Path, codes: bool) -> RawScan:
    reader = PILReader(converter=upright if codes else lambda image: _plain_mode(upright(image)))
    values, _ = reader.get_data(reader.read(path))
    if values.ndim == 2:
        return RawScan(values[:, :, None], None)
    if values.shape[-1] in (2, 4):  # transparent parts show the background, which is black in scans
        values = values[..., :-1] * (values[..., -1:] / np.float32(255))
    return RawScan(values[:, :, None], None, colour=True)


def upright(image: Image.Image) -> Image.Image:
    """Turn or mirror a picture as its EXIF data says it is looked at, in place; without such data it is left as it is.

    Viewers and annotation tools show pictures so, and boxes, outlines and masks are drawn on what they show.
    """
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _plain_mode(image: Any) -> Any:
    """Bring bilevel, palette and printing modes to grey or RGB; 16-bit grey stays."""
    if image.mode in (*_GREY_MODES, "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    transparent = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def _read_nifti(path: Path) -> RawScan:
    reader = NibabelReader()
    values, meta = reader.get_data(reader.read(path))
    parts = values.dtype.names
    if parts is not None:
        values = np.stack([values[name] for name in parts[:3]], axis=-1)
    colour = parts is not None
    return RawScan(_four_axes(values, colour), np.asarray(meta["affine"], dtype=np.float64), colour)


def _four_axes(values: np.ndarray, colour: bool) -> np.ndarray:
    """Shape as ``[X, Y, Z]`` or ``[X, Y, Z, N]``: missing axes are added, axes of length 1 behind Z dropped."""
    if colour:
        return values.reshape(*_three(values.shape[:-1]), values.shape[-1])
    spatial, rest = _three(values.shape[:3]), [side for side in values.shape[3:] if side != 1]
    return values.reshape(*spatial, int(np.prod(rest)), order="F") if rest else values.reshape(spatial)


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1)[:3]


def _read_itk(image: ItkImage, frames_in_z: bool) -> RawScan:
    values, components = image.values, image.components
    # An 8-bit vector of three is a colour; other vectors are measurements (displacements, diffusion directions).
    colour = components in (3, 4) and values.dtype == np.uint8
    if colour:
        values = values[..., :3]
    dims = values.ndim - (components > 1)
    values = _four_axes(values if dims > 2 else np.expand_dims(values, 2), colour)
    return RawScan(values, _affine_3d(image.affine), colour, frames_in_z)


def _affine_3d(affine: np.ndarray) -> np.ndarray:
    full = np.eye(4)
    dims = len(affine) - 1
    full[:dims, :dims], full[:dims, 3] = affine[:dims, :dims], affine[:dims, dims]
    return full
