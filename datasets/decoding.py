# SPDX-License-Identifier: Apache-2.0
"""One file, or one DICOM series, to an array in space: MONAI's readers, one shape of result, one kind of error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data.image_reader import correct_nifti_header_if_necessary
from nibabel.openers import ImageOpener
from PIL import Image, ImageOps

from datasets.claims import MAX_VOXELS, check_bound, check_claim, out_of_memory
from datasets.errors import ScanError
from datasets.formats import DICOM, NIFTI, PICTURE, scan_format
from datasets.itk_process import ItkImage, nrrd_shape, read_nrrd
from datasets.nrrd import read_nrrd_header
from datasets.readers.dicom import last_line, read_series, series_files
from datasets.readers.dicom_header import COPY, read_header

_STRIP = 256  # rows of a picture
_SLAB = 2**22  # voxels of a volume that are scaled at once
_FURTHEST = 2**26  # bytes before the voxels of NIfTI, which nibabel holds
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


def read_scan(
    path: str | Path, series_uid: str | None = None, codes: bool = False, max_voxels: int = MAX_VOXELS
) -> RawScan:
    """Read a scan with the reader of its format.

    Args:
        path: a file, or a folder with a DICOM series.
        series_uid: which series of the folder.
        codes: whether the file is a label map, whose palette indices are its codes.
        max_voxels: most voxels, all volumes and frames of the file included; more are not read.

    Raises:
        ScanError: whatever is wrong with the file.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(path, "the file does not exist", "Check the path; names are case-sensitive.")
    try:
        kind = DICOM if path.is_dir() else scan_format(path)
        if kind == PICTURE:
            return _read_picture(path, codes, max_voxels)
        if kind == NIFTI:
            return _read_nifti(path, max_voxels)
        if kind == DICOM:
            image, frames = read_series(path, series_uid, max_voxels)
            return _read_itk(image, frames > 1)
        header = read_nrrd_header(path)
        check_bound(path, header.sizes, max_voxels)
        return _read_itk(read_nrrd(str(path), header.size), False)
    except ScanError:
        raise
    except MemoryError as error:
        raise out_of_memory(path) from error
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
        shape = open_nifti(path).shape if kind == NIFTI else _nrrd_shape(path)
    except ScanError:
        raise
    except Exception as error:
        raise ScanError(path, f"it cannot be read ({type(error).__name__}: {last_line(error)})", COPY) from error
    return 3 if sum(side > 1 for side in shape[:3]) > 2 else 2


def _nrrd_shape(path: Path) -> tuple[int, ...]:
    read_nrrd_header(path)
    return nrrd_shape(str(path))


def _read_picture(path: Path, codes: bool, max_voxels: int) -> RawScan:
    # These formats only: Pillow knows others by their content, one of which (EPS) runs a program.
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        # Nothing that deflate packs is longer than a 1032nd of it; two-level pictures take a bit a pixel.
        size = math.prod(image.size) / (8 if image.mode == "1" else 1)
        check_claim(path, image.size, size, path.stat().st_size, "deflate" if image.format == "PNG" else "JPEG")
        check_bound(path, image.size, max_voxels)
        upright(image)
        values = _pixels(image if codes else _plain_mode(image))
    if values.ndim == 2:
        return RawScan(values[:, :, None], None)
    if values.shape[-1] in (2, 4):  # transparent parts show the background, which is black in scans
        values = values[..., :-1] * (values[..., -1:] / np.float32(255))
    return RawScan(values[:, :, None], None, colour=True)


def _pixels(image: Image.Image) -> np.ndarray:
    """Pixels ``[X, Y]`` or ``[X, Y, colours]``, by strips: as a whole, Pillow copies them twice on the way to NumPy."""
    width, height = image.size
    first = np.asarray(image.crop((0, 0, width, 1)))
    values = np.empty((height, *first.shape[1:]), first.dtype)
    for low in range(0, height, _STRIP):
        values[low : low + _STRIP] = image.crop((0, low, width, min(low + _STRIP, height)))
    return np.moveaxis(values, 0, 1)


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


def open_nifti(path: Path) -> Any:
    """Open a NIfTI file, as MONAI's reader does, after checking that it can hold what its header says.

    Raises:
        ScanError: whatever is wrong with its header.
    """
    try:
        return _open_nifti(path)
    except ScanError:
        raise
    except Exception as error:  # nibabel raises all kinds for damaged files
        raise ScanError(path, f"it cannot be read ({type(error).__name__}: {last_line(error)})", COPY) from error


def _open_nifti(path: Path) -> Any:
    with ImageOpener(path) as stream:
        head = stream.read(540)
    kind = nibabel.Nifti2Image if _is_nifti2(head) else nibabel.Nifti1Image
    header = kind.header_class(head[: kind.header_class.template_dtype.itemsize], check=False)
    offset = float(header["vox_offset"])
    if not 0 <= offset < _FURTHEST:
        raise ScanError(path, f"it cannot be read (its header puts the voxels at byte {offset:g})", COPY)
    shape = header.get_data_shape()
    codec = "deflate" if path.name.lower().endswith(".gz") else None
    size = offset + math.prod(shape) * header.get_data_dtype().itemsize
    check_claim(path, shape, size, path.stat().st_size, codec)
    return correct_nifti_header_if_necessary(
        kind.from_filename(path, keep_file_open=True)
    )  # slabs follow each other in a gzip stream


def _is_nifti2(head: bytes) -> bool:
    return 540 in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))


def _read_nifti(path: Path, max_voxels: int) -> RawScan:
    image = open_nifti(path)
    check_bound(path, image.shape, max_voxels)
    values = _nifti_values(image)
    parts = values.dtype.names
    if parts is not None:
        values = np.stack([values[name] for name in parts[:3]], axis=-1)
    colour = parts is not None
    return RawScan(_four_axes(values, colour), np.array(image.affine, dtype=np.float64), colour)


def _nifti_values(image: Any) -> np.ndarray:
    """Scaled values; numbers are float32, made by slabs, since scaling makes float64 of all of them."""
    proxy = image.dataobj
    if proxy.dtype.kind not in "iuf" or image.ndim < 3 or proxy.dtype.itemsize > 8:
        return np.asanyarray(proxy)
    values = np.empty(image.shape, np.float32, order="F")
    step = max(1, _SLAB // math.prod(image.shape[:-1]))
    with np.errstate(over="ignore"):  # what overflows is infinite, and counted later
        for low in range(0, image.shape[-1], step):
            values[..., low : low + step] = proxy[..., low : low + step]
    return values


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
