# SPDX-License-Identifier: Apache-2.0
"""Masks of objects: from outlines or label maps, as run-length codes, on the grid of the file or on another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

Outline = list[list[float]] | dict[str, Any]
_NO_OUTLINE = "object {} has a box but no outline"
_WRONG_SIZE = "the run-length code of object {} is for {} x {} pixels, the picture has {} x {}"


def rasterised(outlines: Sequence[Outline | None], size: Sequence[int]) -> NDArray[np.uint8]:
    """Return masks of outlines, exactly as pycocotools draws them.

    Args:
        outlines: COCO's ``segmentation`` of each object: polygons in pixels (pixel i spans i to i + 1), or a run-length
            code, compressed or not.
        size: width X and height Y of the picture.

    Returns:
        uint8 ``[N, X, Y]`` of 0 and 1: x first, as scans are in memory.

    Raises:
        ValueError: an object without an outline, or an outline of another size.
    """
    width, height = (int(side) for side in size)
    masks = np.zeros((len(outlines), width, height), dtype=np.uint8)
    for index, outline in enumerate(outlines):
        if outline is None:
            raise ValueError(_NO_OUTLINE.format(index))
        masks[index] = _decoded(_encoded(outline, index, width, height)).T
    return masks


def _encoded(outline: Outline, index: int, width: int, height: int) -> Any:
    from pycocotools import mask as coco_mask

    if isinstance(outline, list):
        return coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
    rows, columns = outline["size"]
    if (rows, columns) != (height, width):
        raise ValueError(_WRONG_SIZE.format(index, columns, rows, width, height))
    if isinstance(outline["counts"], list):
        return coco_mask.frPyObjects(outline, height, width)
    counts = outline["counts"]
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def _decoded(code: Any) -> NDArray[np.uint8]:
    from pycocotools import mask as coco_mask

    return coco_mask.decode(code)


def masks_in(codes: NDArray[Any], groups: Sequence[Sequence[int]], components: bool) -> NDArray[np.uint8]:
    """Return the masks ``[N, *spatial]`` of the objects of a label map, in the order of ``detection.objects.boxes_in``.

    Args:
        codes: whole numbers ``[*spatial]``.
        groups: codes of each class.
        components: whether the pieces of a class that do not touch, not even by a corner, are objects of their own.
    """
    masks: list[NDArray[np.bool_]] = []
    for group in groups:
        region = np.isin(codes, group)
        numbered, count = ndimage.label(region, np.ones((3,) * codes.ndim)) if components else (region.astype(int), 1)
        masks += [numbered == number for number in range(1, count + 1) if (numbered == number).any()]
    return np.stack([np.zeros(codes.shape, dtype=bool), *masks])[1:].astype(np.uint8)


def decode_masks(codes: Sequence[Mapping[str, Any]], size: Sequence[int]) -> NDArray[np.uint8]:
    """Return the masks ``[N, *size]`` of run-length encodings of :func:`custom.metrics.boxes.encode_masks`."""
    from pycocotools import mask as coco_mask

    if not codes:
        return np.zeros((0, *size), dtype=np.uint8)
    return np.ascontiguousarray(coco_mask.decode(list(codes))[:, 0].T).reshape(len(codes), *size)


def resampled(masks: Tensor, matrix: NDArray[np.float64], size: Sequence[int]) -> Tensor:
    """Return the share of every voxel of another grid that masks cover.

    Args:
        masks: ``[N, X, Y]``, values in [0, 1].
        matrix: from voxel indices of ``masks`` to those of the other grid, ``[3, 3]``.
        size: sides of the other grid.

    Returns:
        float32 ``[N, *size]``; 0 where the masks' grid does not reach. Coarser grids average over the voxel.
    """
    if not len(masks):
        return torch.zeros(0, *size)
    back = np.linalg.inv(matrix)
    steps = [max(1, math.ceil(round(float(np.linalg.norm(back[:2, axis])), 6))) for axis in range(2)]
    places = functional.affine_grid(
        _relative(back, masks.shape[1:], size), [1, 1, size[0] * steps[0], size[1] * steps[1]], align_corners=False
    )
    values = functional.grid_sample(masks[None].float(), places, padding_mode="border", align_corners=False)
    values = values * (places.abs() <= 1).all(dim=-1)
    return functional.avg_pool2d(values, steps)[0]


def _relative(back: NDArray[np.floating[Any]], source: Sequence[int], size: Sequence[int]) -> Tensor:
    """A map of voxel indices as torch takes it: the last axis first, -1 and 1 at the outer edges of a grid."""
    to_index, to_relative = np.eye(3), np.eye(3)
    for axis in range(2):
        to_index[axis, axis], to_index[axis, 2] = size[axis] / 2, size[axis] / 2 - 0.5
        to_relative[axis, axis], to_relative[axis, 2] = 2 / source[axis], 1 / source[axis] - 1
    full = (to_relative @ back @ to_index)[[1, 0]][:, [1, 0, 2]]
    return torch.from_numpy(full).float()[None]


def drawn(masks: Tensor, matrix: NDArray[np.float64], size: Sequence[int]) -> Tensor:
    """Return masks on another grid: voxels that they cover by half or more.

    An object too small for that keeps the voxel that it covers most.

    Args:
        masks: uint8 ``[N, X, Y]``.
        matrix: see :func:`resampled`.
        size: see :func:`resampled`.

    Returns:
        uint8 ``[N, *size]``; empty only for objects outside of the grid.
    """
    shares = resampled(masks, matrix, size)
    result = shares >= 0.5 - 1e-4
    for index in torch.nonzero(~result.flatten(1).any(dim=1)).flatten().tolist():
        if shares[index].max() > 0:
            result[index].view(-1)[shares[index].argmax()] = True
    return result.to(torch.uint8)


def hulls(masks: Tensor) -> Tensor:
    """Return the boxes around masks.

    Args:
        masks: ``[N, *spatial]``, none of them empty.

    Returns:
        float32 ``[N, 2 * spatial_dims]``, voxel edges in MONAI's StandardMode.
    """
    dims = masks.ndim - 1
    boxes = torch.zeros(len(masks), 2 * dims)
    for index, mask in enumerate(masks):
        places = torch.nonzero(mask)
        boxes[index] = torch.cat([places.amin(dim=0), places.amax(dim=0) + 1]).float()
    return boxes
