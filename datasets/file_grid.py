# SPDX-License-Identifier: Apache-2.0
"""The voxels of a scan's file: arrays turned as the file has them, and NIfTI that lies where the file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor

from datasets.errors import ScanError
from datasets.formats import NIFTI, PICTURE, format_by_name, scan_format
from datasets.geometry import stored_to_memory

_SAME = 1e-3  # voxels by which corners may differ for two grids to be one
# What a NIfTI header says of the place of its voxels, beside their size.
_PLACE = (
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class FileGrid:
    """Voxels of the file of a scan that `datasets.LoadScand` has turned in memory.

    Where it has resampled as well, they are the resampled ones, along the axes of the file.

    Attributes:
        path: the file, or the folder of a DICOM series.
        affine: voxel indices to RAS+ millimetres, ``[4, 4]``.
        shape: ``[X, Y, Z]``; one axis of slices is 1.
        order: for each axis of the file (of a slice: of its plane) the axis in memory.
        flips: whether it runs the other way there.
        memory_affine: that of the tensor.
        memory_shape: ``[*spatial]``.
    """

    path: str
    affine: np.ndarray
    shape: tuple[int, ...]
    order: tuple[int, ...]
    flips: tuple[bool, ...]
    memory_affine: np.ndarray
    memory_shape: tuple[int, ...]

    @classmethod
    def of(cls, image: Any) -> FileGrid | None:
        """Return the grid of a scan ``[C, *spatial]`` as `LoadScand` gives it; None of pictures, and of other tensors.

        Pictures have no place in space.
        """
        known = image.meta if isinstance(image, MetaTensor) else {}
        if not {"filename_or_obj", "original_affine", "spatial_shape"} <= set(known):
            return None
        path, shape = str(known["filename_or_obj"]), tuple(int(side) for side in known["spatial_shape"])
        if format_by_name(path) == PICTURE:
            return None
        matrix, sides = stored_to_memory(image), tuple(image.shape[1:])
        turn = matrix[:-1, :-1]
        order = tuple(int(axis) for axis in np.abs(turn).argmax(axis=0))
        flips = tuple(bool(turn[axis, column] < 0) for column, axis in enumerate(order))
        plane = [axis for axis in range(3) if len(sides) == 3 or axis != shape.index(1)]
        own = tuple(sides[order[plane.index(axis)]] if axis in plane else 1 for axis in range(3))
        back = np.eye(4)  # from these voxels to those of the file, from which they differ where they were resampled
        back[np.ix_([*plane, 3], [*plane, 3])] = np.linalg.solve(matrix, _turned(order, flips, sides))
        affine = np.asarray(known["original_affine"], dtype=np.float64)
        is_same = own == shape and np.abs(back @ [*shape, 1] - [*shape, 1]).max() < _SAME
        memory = np.asarray(image.affine, dtype=np.float64)
        return cls(path, affine if is_same else affine @ back, own, order, flips, memory, sides)

    def to_file(self, values: np.ndarray) -> np.ndarray:
        """Turn a map ``[*spatial]`` in memory to the voxels of the file, ``[X, Y, Z]``."""
        turned = np.flip(values.transpose(self.order), [axis for axis, flip in enumerate(self.flips) if flip])
        return turned.reshape(self.shape)

    def to_memory(self, values: np.ndarray) -> np.ndarray:
        """Turn a map ``[X, Y, Z]`` on the voxels of the file to memory, ``[*spatial]``: the way back."""
        plane = values.reshape([self.memory_shape[axis] for axis in self.order])
        turned = np.flip(plane, [axis for axis, flip in enumerate(self.flips) if flip])
        return turned.transpose(np.argsort(self.order))

    def is_as_in_memory(self, shape: tuple[int, ...], affine: np.ndarray) -> bool:
        """Whether a volume of that shape and place lies as the scan does in memory, not as in its file."""
        if tuple(shape) != self.memory_shape:
            return False
        shift = np.linalg.solve(self.memory_affine, affine) - np.eye(4)
        return bool(np.abs(shift @ [*shape, 1]).max() < 0.5)


def nifti_on(values: np.ndarray, affine: np.ndarray, source: str | Path | None = None) -> nibabel.Nifti1Image:
    """Return values as NIfTI that lies where a scan's file does, for any reader.

    Where the file is NIfTI with these voxels its forms, codes, voxel sizes and units are taken over as they are:
    readers differ in which of them they follow. Otherwise both forms hold the affine (a quaternion cannot say a shear).

    Args:
        values: ``[X, Y, Z]`` on the voxels of the file.
        affine: of the file.
        source: the file; None, or gone: there is only the affine.
    """
    header = _header(source, values.shape, affine)
    if header is None:
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        if _has_right_angles(affine):
            image.set_qform(affine, code="scanner")
        return image
    own = type(header)()
    own.set_data_dtype(values.dtype)
    own.set_data_shape(header.get_data_shape()[:3])
    for field in _PLACE:
        own[field] = header[field]
    own["pixdim"][:4] = header["pixdim"][:4]
    kind = nibabel.Nifti2Image if isinstance(own, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(values.reshape(own.get_data_shape()), own.get_best_affine(), own)


def _header(source: str | Path | None, shape: tuple[int, ...], affine: np.ndarray) -> Any:
    """The header of a NIfTI file with these voxels; None if it is another file."""
    try:
        if source is None or Path(source).is_dir() or scan_format(source) != NIFTI:
            return None
        header: Any = nibabel.load(source).header
    except (ScanError, OSError, nibabel.filebasedimages.ImageFileError):
        return None
    is_same = (*header.get_data_shape(), 1, 1)[:3] == tuple(shape) and np.allclose(
        header.get_best_affine(), affine, 1e-4, 1e-4
    )
    return header if is_same else None


def _has_right_angles(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4)


def _turned(order: tuple[int, ...], flips: tuple[bool, ...], sides: tuple[int, ...]) -> np.ndarray:
    """Indices along the axes of the file to indices in memory, ``[D + 1, D + 1]``."""
    matrix = np.zeros((len(order) + 1, len(order) + 1))
    matrix[-1, -1] = 1
    for column, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[axis, column] = -1 if flip else 1
        matrix[axis, -1] = sides[axis] - 1 if flip else 0
    return matrix
