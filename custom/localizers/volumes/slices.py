# SPDX-License-Identifier: Apache-2.0
"""Slices of a volume as a radiologist sees them, and maps turned back onto the volume's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

AXES = {0: "sagittal", 1: "coronal", 2: "axial"}
SQUARE_WITHIN = 0.01  # a pixel whose sides differ by less is taken for square: nothing is then interpolated


class SliceView:
    """How the slices along one axis of a volume become upright pictures, and back.

    Volumes are RAS+ ``[C, X, Y, Z]``: X grows to the patient's right, Y to the front, Z to the head. Pictures are
    ``[H, W]`` in radiological convention: axial ones show the patient's right on the left side and the front above,
    coronal ones the right on the left side and the head above, sagittal ones the front on the left side and the head
    above. That is one rule for all three: of the two axes of the plane, the first runs from right to left of the
    picture, the second from bottom to top.

    Pixels are made square by linear interpolation to the finer of the two spacings, because models of pictures have
    never seen a body that is squashed (a stack of 0.7 × 0.7 × 5 mm seen from the side is a seventh of its height).

    Args:
        axis: that is cut across, 0 to 2.
        shape: ``(X, Y, Z)`` of the volume.
        spacing: size of a voxel along X, Y and Z, in any unit; see :func:`voxel_sizes`.
        square_pixels: False: show voxels as they are.
    """

    def __init__(
        self, axis: int, shape: Sequence[int], spacing: Sequence[float] = (1, 1, 1), square_pixels: bool = True
    ) -> None:
        if axis not in AXES:
            raise ValueError(f"A volume has the axes 0, 1 and 2, received {axis!r}.")
        self.axis, self.length = axis, int(shape[axis])
        across, up = (each for each in AXES if each != axis)
        self.size = (int(shape[up]), int(shape[across]))
        self.picture_size = _square(self.size, (spacing[up], spacing[across])) if square_pixels else self.size

    def __len__(self) -> int:
        return self.length

    def pictures(self, volume: Tensor, indices: Sequence[int]) -> Tensor:
        """Show slices.

        Args:
            volume: ``[C, X, Y, Z]``.
            indices: which ``N`` slices.

        Returns:
            ``[N, C, H, W]``, upright, with square pixels.
        """
        planes = volume.movedim(self.axis + 1, 0)[list(indices)]
        return _resized(planes.transpose(-2, -1).flip(-2, -1).contiguous(), self.picture_size)

    def planes(self, pictures: Tensor) -> Tensor:
        """Turn pictures back.

        Args:
            pictures: ``[N, C, H, W]``, as :meth:`pictures` makes them.

        Returns:
            ``[N, C, A, B]``, on the voxels of the plane's axes ``A < B``.
        """
        return _resized(pictures, self.size).flip(-2, -1).transpose(-2, -1).contiguous()


def voxel_sizes(image: Tensor) -> tuple[float, ...]:
    """Size of a voxel along each axis, in millimetres, from a MetaTensor's affine; 1 without one."""
    if not isinstance(image, MetaTensor):
        return (1.0,) * (image.ndim - 1)
    columns = np.asarray(image.affine, dtype=np.float64)[: image.ndim - 1, : image.ndim - 1]
    return tuple(float(size) if size > 0 else 1.0 for size in np.linalg.norm(columns, axis=0))


def plain(values: Tensor) -> Tensor:
    """The values without MONAI's metadata."""
    return values.as_tensor() if isinstance(values, MetaTensor) else values


def chosen_maps(maps: Tensor, chosen: Sequence[int]) -> Tensor:
    """Some of the maps ``[P, *spatial]``; the same tensor if it is all of them."""
    return maps if len(chosen) == len(maps) else maps[list(chosen)]


def _square(size: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    finest = min(spacing)
    if max(spacing) <= finest * (1 + SQUARE_WITHIN):
        return size
    return round(size[0] * spacing[0] / finest), round(size[1] * spacing[1] / finest)


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if pictures.shape[-2:] == torch.Size(size):
        return pictures
    return F.interpolate(pictures.float(), size, mode="bilinear", align_corners=False, antialias=True)
