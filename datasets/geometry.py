# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a file are in memory: `LoadScand` turns slices and volumes, later transforms crop and resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


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


def map_boxes(boxes: ArrayLike, matrix: ArrayLike, rounded: bool = False) -> Floats:
    """Return boxes ``[N, 2 * d]`` on another grid: the smallest upright boxes around what they hold.

    Args:
        boxes: low edges, then high edges, on the first grid; voxel i spans i to i + 1.
        matrix: ``[d + 1, d + 1]``, voxel indices (centres) of the first grid to those of the second.
        rounded: what they hold is an ellipse (ellipsoid) that touches their sides, not all of the box: tighter where
            grids are turned against each other, the same where they are not (Kalra et al., "Towards Rotation Invariance
            in Object Detection", ICCV 2021).
    """
    full, values = np.asarray(matrix, dtype=np.float64), np.asarray(boxes, dtype=np.float64)
    dims = len(full) - 1
    turn, low, high = full[:dims, :dims], values[:, :dims], values[:, dims:]
    centre = ((low + high) / 2 - 0.5) @ turn.T + full[:dims, dims] + 0.5
    half = (high - low) / 2
    reach = np.sqrt(half**2 @ (turn**2).T) if rounded else half @ np.abs(turn).T
    return np.concatenate([centre - reach, centre + reach], axis=1)


def boxes_in_memory(boxes: Sequence[Sequence[float]], image: MetaTensor) -> list[list[float]]:
    """Return boxes of a picture's or slice's file where they are in memory.

    Args:
        boxes: ``[x, y, width, height]`` each, voxel edges of the file.
        image: the scan ``[C, X, Y]`` of `LoadScand`, or what MONAI's transforms made of it.

    Returns:
        The smallest upright boxes around them, ``[x, y, width, height]`` each.
    """
    edges = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    moved = map_boxes(np.reshape(edges, (-1, 4)), stored_to_memory(image))
    return np.concatenate([moved[:, :2], moved[:, 2:] - moved[:, :2]], axis=1).tolist()


def slice_axes(across: int) -> list[int]:
    """Order of homogeneous 3D axes that puts the plane of a slice first, and the axis across it third."""
    return [*(axis for axis in range(3) if axis != across), across, 3]
