# SPDX-License-Identifier: Apache-2.0
"""How alike two maps are, as masking would see them."""

from __future__ import annotations

import numpy as np


def region_similarity(first: np.ndarray, second: np.ndarray, threshold: float | None = 0.5) -> float:
    """Say how far two maps single out the same place.

    Intersection over union of the two regions, or of both cut down to the smaller region's size (the voxels with the
    highest probabilities; equal ones share what is left), whichever is larger: a prompt that only makes the same region
    larger or smaller has not moved it.

    Args:
        first, second: probabilities ``[*spatial]`` in [0, 1].
        threshold: probability from which a voxel is region; None: the probabilities themselves are compared, with sums
            of minima and maxima in place of intersection and union (Ruzicka).

    Returns:
        In [0, 1]: 1 for the same region (also if both are empty), 0 if only one of them is empty.
    """
    regions = [_region(each, threshold) for each in (first, second)]
    sizes = [float(region.sum()) for region in regions]
    if min(sizes) == 0:
        return float(sizes[0] == sizes[1])
    if threshold is None:
        return _overlap(*regions)
    smaller = min(sizes)
    cut = [_highest(each, region, smaller) for each, region in zip((first, second), regions, strict=True)]
    return max(_overlap(*regions), _overlap(*cut))


def _region(values: np.ndarray, threshold: float | None) -> np.ndarray:
    return values.astype(np.float64) if threshold is None else (values >= threshold).astype(np.float64)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.minimum(first, second).sum() / np.maximum(first, second).sum())


def _highest(values: np.ndarray, region: np.ndarray, size: float) -> np.ndarray:
    """Weights in [0, 1] that sum to ``size``: the highest values of a region; equal values share what is left."""
    if region.sum() <= size:
        return region
    inside = values[region > 0]
    least = np.partition(inside, -int(size))[-int(size)]
    above, equal = values > least, (values == least) & (region > 0)
    share = (size - above.sum()) / equal.sum()
    return np.asarray(above + share * equal, dtype=np.float64)
