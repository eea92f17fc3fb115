# SPDX-License-Identifier: Apache-2.0
"""Operators that change the map found so far."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from custom.localizers.operators.scan import Map, Scan, smooth


def side(region: Map, scan: Scan, keep: str = "left") -> Map:
    """Keep the patient's left or right half of a region, cut at the middle of its extent.

    Args:
        region: map so far.
        scan: tells which side low indices of axis 0 are on (radiological pictures: the patient's right).
        keep: ``left`` or ``right``.
    """
    where = np.flatnonzero((region > 0.5).any(axis=tuple(range(1, region.ndim))))
    if where.size == 0:
        where = np.arange(region.shape[0])
    middle = (where[0] + where[-1]) / 2
    low = (np.arange(region.shape[0]) < middle).reshape(-1, *[1] * (region.ndim - 1))
    return region * (low if scan.low_side == keep else ~low)


def grow(region: Map, scan: Scan, share: float = 0.03) -> Map:
    """Widen a region by a share of the picture's size."""
    width = 2 * round(share * scan.size) + 1
    return smooth(ndimage.maximum_filter(region, size=width), width / 6)


def at_least(region: Map, scan: Scan, share: float = 0.0005) -> Map:
    """Drop connected parts (above 0.5) that are smaller than a share of the picture."""
    labels, _ = ndimage.label(region > 0.5)
    sizes = np.bincount(labels.ravel())
    small = (sizes < share * region.size)[labels] & (labels > 0)
    return np.where(small, 0, region)


def complement(region: Map, scan: Scan) -> Map:
    """What the region is not."""
    return 1 - region
