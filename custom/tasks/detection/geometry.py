# SPDX-License-Identifier: Apache-2.0
"""Boxes between grids: the voxels of a file, those that a network sees, and millimetres.

Boxes ``[N, 2 * d]`` are StandardMode (xmin, ymin(, zmin), xmax, ymax(, zmax)) in voxel *edges*: voxel i spans i to
i + 1. Matrices map voxel *centres*, so that the edge e is the index e - 0.5. From grid to grid they come by
:func:`datasets.geometry.map_boxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray

from datasets.geometry import Floats, slice_axes


def corners_of(boxes: ArrayLike) -> Floats:
    """Corners ``[N, 2 ** d, d]`` of boxes ``[N, 2 * d]``; the last axis changes fastest, low before high."""
    values = np.asarray(boxes, dtype=np.float64)
    dims = values.shape[1] // 2
    choice = np.stack(np.meshgrid(*[[0, 1]] * dims, indexing="ij"), axis=-1).reshape(-1, dims)
    return np.where(choice[None].astype(bool), values[:, None, dims:], values[:, None, :dims])


def clip_boxes(boxes: ArrayLike, size: Sequence[int], min_share: float = 0.0) -> tuple[Floats, NDArray[np.int64]]:
    """Cut boxes ``[N, 2 * d]`` at the border of a grid; return those that remain and their indices ``[M]``.

    Args:
        boxes: on the grid.
        size: voxels of the grid along each axis.
        min_share: a box of which less than this share of its area or volume lies on the grid is dropped. One that has
            no extent there, or only touches it, always is.
    """
    values = np.asarray(boxes, dtype=np.float64)
    dims = len(size)
    clipped = np.clip(values, 0, np.tile(np.asarray(size, dtype=np.float64), 2))
    sides, before = clipped[:, dims:] - clipped[:, :dims], values[:, dims:] - values[:, :dims]
    share = sides.prod(axis=1) / np.maximum(before.prod(axis=1), 1e-12)
    kept = np.flatnonzero((sides > 1e-6).all(axis=1) & (share >= min_share))
    return clipped[kept], kept


def file_size(image: MetaTensor) -> list[int]:
    """Voxels of a scan's file along the axes of :func:`datasets.geometry.stored_to_memory`, whatever became of it."""
    sides = [int(side) for side in image.meta["spatial_shape"]]
    return sides if image.ndim == 4 else [sides[axis] for axis in _plane(sides)]


def file_to_world(image: MetaTensor) -> Floats:
    """Matrix ``[4, d + 1]`` from voxel indices of a scan's file to millimetres, RAS+."""
    affine = np.asarray(image.meta["original_affine"], dtype=np.float64)
    if image.ndim == 4:
        return affine
    return affine[:, [*_plane([int(side) for side in image.meta["spatial_shape"]]), 3]]


def world_boxes(boxes: ArrayLike, to_world: ArrayLike) -> list[dict[str, Any]]:
    """Describe boxes ``[N, 2 * d]`` of a file's grid in space, JSON-able.

    Args:
        boxes: voxel edges.
        to_world: ``[4, d + 1]``, see :func:`file_to_world`.

    Returns:
        For each box ``center_mm`` (x, y, z in RAS+ millimetres), ``size_mm`` along the file's own axes, which need not
        be those of the world, and ``corners_mm``, the 4 or 8 corners (last axis fastest, low before high).
    """
    matrix = np.asarray(to_world, dtype=np.float64)[:3]
    values = np.asarray(boxes, dtype=np.float64)
    dims = matrix.shape[1] - 1
    lengths = np.linalg.norm(matrix[:, :dims], axis=0)
    corners = (corners_of(values) - 0.5) @ matrix[:, :dims].T + matrix[:, dims]
    sizes = (values[:, dims:] - values[:, :dims]) * lengths
    return [
        {"center_mm": points.mean(axis=0).tolist(), "size_mm": size.tolist(), "corners_mm": points.tolist()}
        for points, size in zip(corners, sizes, strict=True)
    ]


def _plane(sides: Sequence[int]) -> list[int]:
    return slice_axes(list(sides).index(1))[:2]
