# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a file are in memory: `LoadScand` turns slices and volumes, later transforms crop and resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.data import MetaTensor


def stored_to_memory(image: MetaTensor) -> np.ndarray:
    """Return the matrix from voxel indices of the file to voxel indices of the tensor.

    Boxes and outlines are given in voxels of the file. Slices and volumes with a place in space are turned when they
    are read, and every transform of MONAI that moves voxels says so in the affine.

    Args:
        image: a scan ``[C, *spatial]`` of `LoadScand`, or what MONAI's transforms made of it.

    Returns:
        ``[D + 1, D + 1]``, float64, for D spatial axes; it maps voxel *centres*, so a box's edge e is the index
        e - 0.5. The axes of a slice in its file are those with more than one voxel, in their order.
    """
    affine, original = (np.asarray(image.meta[key], dtype=np.float64) for key in ("affine", "original_affine"))
    if image.ndim == 4:
        return np.linalg.solve(affine, original)
    stored_across = [int(side) for side in image.meta["spatial_shape"]].index(1)
    world, stored = slice_axes(int(image.meta["across"])), slice_axes(stored_across)
    plane = [0, 1, 3]
    return np.linalg.solve(affine, original[world][:, stored])[plane][:, plane]


def boxes_in_memory(boxes: Sequence[Sequence[float]], image: MetaTensor) -> list[list[float]]:
    """Return boxes of a picture's or slice's file where they are in memory.

    Args:
        boxes: ``[x, y, width, height]`` each, voxel edges of the file.
        image: the scan ``[C, X, Y]`` of `LoadScand`, or what MONAI's transforms made of it.

    Returns:
        The smallest upright boxes around them, ``[x, y, width, height]`` each.
    """
    matrix = stored_to_memory(image)
    moved = []
    for x, y, width, height in boxes:
        corners = np.array([[x, x + width, x, x + width], [y, y, y + height, y + height]]) - 0.5
        points = matrix[:2, :2] @ corners + matrix[:2, 2:] + 0.5
        low, high = points.min(axis=1), points.max(axis=1)
        moved.append([*low.tolist(), *(high - low).tolist()])
    return moved


def slice_axes(across: int) -> list[int]:
    """Order of homogeneous 3D axes that puts the plane of a slice first, and the axis across it third."""
    return [*(axis for axis in range(3) if axis != across), across, 3]
