# SPDX-License-Identifier: Apache-2.0
"""A region map against the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def compare_with_truth(probability: np.ndarray, target: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Compare a map with a boolean target.

    Args:
        probability: ``[*spatial]`` in [0, 1].
        target: boolean ``[*spatial]``, not empty.
        threshold: probability from which a voxel is region.

    Returns:
        ``hit``: 1 if the highest probability lies in the target (pointing game; of several equal ones the one nearest
        to the centre counts); ``recall``, ``precision``, ``coverage`` and ``dice`` of the region; ``recall_at_15``:
        share of the target within the 15 % of the picture with the highest probabilities; ``found``: 1 if there is any
        region.

    Raises:
        ValueError: if shapes differ or the target is empty.
    """
    if probability.shape != target.shape or not target.any():
        raise ValueError(f"A target must be {probability.shape} like the map and not empty, received {target.shape}.")
    region = probability >= threshold
    both = float((region & target).sum())
    share = max(1, round(0.15 * target.size))
    # Ties are broken from the centre outwards, so that a flat map does not profit from the order of voxels.
    grid = np.ogrid[tuple(slice(0, size) for size in target.shape)]
    centre = np.zeros(target.shape)
    for axis in grid:
        centre = centre + ((axis - (axis.size - 1) / 2) / axis.size) ** 2
    order = np.lexsort((centre.ravel(), -probability.ravel()))
    anything = probability.max() > 0
    return {
        "hit": float(target.ravel()[order[0]]) if anything else 0.0,
        "recall": both / float(target.sum()),
        "precision": both / float(region.sum()) if region.any() else 0.0,
        "coverage": float(region.mean()),
        "dice": 2 * both / float(region.sum() + target.sum()),
        "recall_at_15": float(target.ravel()[order[:share]].sum() / target.sum()) if anything else 0.0,
        "found": float(region.any()),
    }


def in_boxes(boxes: Sequence[Sequence[float]], shape: Sequence[int]) -> np.ndarray:
    """Return the boolean picture ``[X, Y]`` that boxes ``[x, y, width, height]`` in pixels cover.

    A pixel counts if a box covers some of it; a millionth of a pixel is rounding, not some.
    """
    inside = np.zeros(tuple(shape), dtype=bool)
    for x, y, width, height in boxes:
        low = np.floor(np.array([x, y]) + 1e-6).clip(min=0).astype(int)
        high = np.ceil(np.array([x + width, y + height]) - 1e-6).clip(min=0).astype(int)
        inside[low[0] : high[0], low[1] : high[1]] = True
    return inside
