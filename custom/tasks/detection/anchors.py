# SPDX-License-Identifier: Apache-2.0
"""Anchor shapes that fit the training boxes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets import ScanDataset

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
_CELLS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # objects of so many cells across belong to a level, to begin with
_ROUNDS = 50


def fit_anchors(boxes: ArrayLike, strides: Sequence[int], count: int = 3, seed: int = 0) -> dict[str, Any]:
    """Choose anchor shapes by clustering the shapes of boxes.

    A level of the pyramid with stride s sees the base shapes times s over the finest stride. K-means on logarithmic
    sides, in which each box belongs to the shape and level of the highest intersection over union of two boxes with the
    same centre (the distance of Redmon and Farhadi, "YOLO9000", arXiv 1612.08242, section 2, with levels added); the
    best of several beginnings.

    Args:
        boxes: ``[N, 2 * d]`` on the grid that the network sees, N at least 1.
        strides: of the levels, fine to coarse.
        count: number of base shapes; fewer if there are fewer different boxes.
        seed: of the first choice.

    Returns:
        JSON-able: ``base_shapes`` ``[count][d]`` in voxels on the finest level, by size; ``scales``, one a level (both
        for MONAI's ``AnchorGeneratorWithAnchorShape``); ``mean_best_iou`` of the boxes with their best shape and
        ``recall``, the share of boxes for which that is at least 0.5.

    Raises:
        ValueError: without a box of some extent, or if count is less than 1.
    """
    values = np.asarray(boxes, dtype=np.float64)
    dims = values.shape[-1] // 2
    sides = values.reshape(-1, 2 * dims)[:, dims:] - values.reshape(-1, 2 * dims)[:, :dims]
    sides = sides[(sides > 0).all(axis=1)]
    if not len(sides) or count < 1:
        raise ValueError(
            f"Anchors need at least one training box and one shape; got {len(sides)} boxes, count {count}. Scans "
            "without any object teach a detector nothing: check --objects, --object_codes and the training split."
        )
    scales = np.asarray(strides, dtype=np.float64) / strides[0]
    starts = [_cluster(sides, scales, count, cells * strides[0], seed) for cells in _CELLS]
    shapes = max(starts, key=lambda start: _best(sides, start, scales)[2].mean())
    shapes = shapes[np.argsort(shapes.prod(axis=1), kind="stable")]
    best = _best(sides, shapes, scales)[2]
    result = {
        "base_shapes": np.round(shapes, 3).tolist(),
        "scales": scales.tolist(),
        "mean_best_iou": round(float(best.mean()), 4),
        "recall": round(float((best >= 0.5).mean()), 4),
    }
    logger.info("Anchors: %s (%d boxes).", result, len(sides))
    return result


def fit_anchors_to_dataset(dataset: ScanDataset, strides: Sequence[int], count: int = 3, seed: int = 0) -> dict:
    """:func:`fit_anchors` to the ``boxes`` of a training set, as they are before random transforms."""
    return fit_anchors(_joined(dataset, "boxes"), strides, count, seed)


def size_limits(dataset: ScanDataset) -> dict[str, list[float]]:
    """Return "small", "medium" and "large": limits of area or volume that part the training boxes into thirds.

    COCO's own limits were made for photographs, see :data:`custom.metrics.boxes.COCO_SIZES`.

    Args:
        dataset: training scans with ``scan_boxes``, voxels of their files.
    """
    boxes = _joined(dataset, "scan_boxes")
    dims = boxes.shape[1] // 2
    low, high = np.quantile((boxes[:, dims:] - boxes[:, :dims]).prod(axis=1), [1 / 3, 2 / 3]).round(1).tolist()
    return {"small": [0.0, low], "medium": [low, high], "large": [high, 1e10]}


def _joined(dataset: ScanDataset, key: str) -> Floats:
    # Behind the random transforms, boxes would be other ones every time.
    return np.concatenate([np.asarray(item[key], dtype=np.float64) for item in dataset.prepared()])


def _cluster(sides: Floats, scales: Floats, count: int, usual: float, seed: int) -> Floats:
    """Base shapes by k-means; to begin with, objects of the usual size belong to the finest level."""
    logs = np.log(sides)
    level = np.abs(np.log(usual * scales)[None] - logs.mean(axis=1)[:, None]).argmin(axis=1)
    shapes = np.exp(_spread(logs - np.log(scales[level])[:, None], count, np.random.default_rng(seed)))
    for _ in range(_ROUNDS):
        owner, level, _ = _best(sides, shapes, scales)
        own = logs - np.log(scales[level])[:, None]
        moved = [own[owner == index].mean(axis=0) for index in range(len(shapes)) if (owner == index).any()]
        fitted = np.exp(np.stack(moved))
        if fitted.shape == shapes.shape and np.allclose(fitted, shapes, rtol=1e-4):
            break
        shapes = fitted
    return shapes


def _spread(points: Floats, count: int, generator: np.random.Generator) -> Floats:
    """K-means++ (Arthur and Vassilvitskii, 2007): points far from each other, no two the same."""
    chosen = [points[generator.integers(len(points))]]
    while len(chosen) < count:
        distance = np.min([((points - centre) ** 2).sum(axis=1) for centre in chosen], axis=0)
        if distance.max() < 1e-12:
            break
        chosen.append(points[generator.choice(len(points), p=distance / distance.sum())])
    return np.stack(chosen)


def _best(sides: Floats, shapes: Floats, scales: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For each box the base shape and level of the highest overlap, and that overlap."""
    every = shapes[None] * scales[:, None, None]
    both = np.minimum(sides[:, None, None], every[None]).prod(axis=-1)
    iou = both / (sides.prod(axis=1)[:, None, None] + every.prod(axis=-1)[None] - both)
    flat = iou.reshape(len(sides), -1)
    place = flat.argmax(axis=1)
    return place % len(shapes), place // len(shapes), flat.max(axis=1)
