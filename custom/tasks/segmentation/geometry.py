# SPDX-License-Identifier: Apache-2.0
"""The way back: from what a network sees to the voxels of the scan, and of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from monai.utils import convert_to_tensor
from torch import Tensor

from datasets.formats import PICTURE, format_by_name
from datasets.geometry import stored_to_memory


@dataclass(frozen=True)
class ScanGrid:
    """Where the voxels of a scan lie: in memory as it was read (turned upright, not resampled), and in its file.

    Attributes:
        affine: voxel indices of the file to RAS+ millimetres, ``[4, 4]``.
        file_shape: voxels in the file, ``[X, Y, Z]``; one axis of a slice or picture is 1.
        shape: voxels in memory, ``[*spatial]``.
        spacing: size of a voxel in memory, millimetres an axis; pixels for pictures, which have no place in space.
        is_picture: PNG or JPEG.
        path: the file, or the folder of a DICOM series.
        memory_affine: voxel indices in memory to the world, as the tensor's affine has it.
        file_to_memory: voxel indices of the file to those in memory, ``[D + 1, D + 1]``.
    """

    affine: np.ndarray
    file_shape: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    is_picture: bool
    memory_affine: np.ndarray
    file_to_memory: np.ndarray
    path: str | None = None

    @classmethod
    def of(cls, image: MetaTensor) -> ScanGrid:
        """Read the grid of a scan ``[C, *spatial]`` from `datasets.LoadScand`, without resampling."""
        dims = image.ndim - 1
        affine = np.asarray(image.affine, dtype=np.float64)
        return cls(
            affine=np.asarray(image.meta["original_affine"], dtype=np.float64),
            file_shape=tuple(int(side) for side in image.meta["spatial_shape"]),
            shape=tuple(image.shape[1:]),
            spacing=tuple(float(size) for size in np.linalg.norm(affine[:3, :dims], axis=0)),
            is_picture=format_by_name(image.meta["filename_or_obj"]) == PICTURE,
            memory_affine=affine,
            file_to_memory=stored_to_memory(image),
            path=str(image.meta["filename_or_obj"]),
        )

    @property
    def unit(self) -> str:
        """Of volumes and areas: "ml", "mm2" (slices) or "pixels"."""
        return "pixels" if self.is_picture else {2: "mm2", 3: "ml"}[len(self.shape)]

    @cached_property
    def voxel(self) -> float:
        """Size of a voxel in that unit."""
        size = float(np.prod(self.spacing))
        return size / 1000 if self.unit == "ml" else 1.0 if self.is_picture else size

    def from_network(self, values: Tensor, image: MetaTensor) -> Tensor:
        """Bring maps from the network's grid to the scan's, linearly; zero where the network saw nothing.

        Whatever MONAI's transforms did in between (cropping, resampling, padding, turning) is in the image's affine.

        Args:
            values: ``[C, *spatial]``, the network's answer.
            image: ``[C, *spatial]``, what it was shown, with its affine.

        Returns:
            ``[C, *shape]``, float32.
        """
        dims = len(self.shape)
        matrix = np.linalg.solve(np.asarray(image.affine, dtype=np.float64), self.memory_affine)
        kept = [*range(dims), 3]
        return resampled(values, matrix[kept][:, kept], self.shape, "bilinear")

    def to_file(self, labels: np.ndarray) -> np.ndarray:
        """Bring a label map ``[*shape]`` to the voxels of the file, ``[X, Y, Z]``; exact, since it is only turned."""
        plane = [side for side in self.file_shape if side > 1] if len(self.shape) == 2 else list(self.file_shape)
        values = torch.from_numpy(labels.astype(np.float32))[None]
        turned = resampled(values, self.file_to_memory, plane, "nearest")[0]
        return turned.numpy().round().astype(labels.dtype).reshape(self.file_shape)


def resampled(values: Tensor, matrix: np.ndarray, shape: Sequence[int], mode: str) -> Tensor:
    """Resample maps by a matrix between voxel indices; zero outside.

    Args:
        values: ``[C, *spatial]``.
        matrix: ``[D + 1, D + 1]``, indices of the result to indices of the values; voxel centres.
        shape: of the result.
        mode: "bilinear" (trilinear in 3D) or "nearest".

    Returns:
        ``[C, *shape]``, float32.
    """
    dims = values.ndim - 1
    source = MetaTensor(values.float(), affine=torch.eye(dims + 1, dtype=torch.float64))
    move = SpatialResample(mode=mode, padding_mode="zeros", align_corners=False, dtype=np.float32)
    moved = move(source, dst_affine=torch.as_tensor(matrix), spatial_size=tuple(shape))
    return convert_to_tensor(moved, dtype=torch.float32, track_meta=False)
