# SPDX-License-Identifier: Apache-2.0
"""Round spots in the lungs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from custom.localizers.operators.lungs import lungs
from custom.localizers.operators.scan import Map, Scan, dilated, logistic, shared

_USUAL_SIZE = 0.04  # the size at which roundness counts as it is; smaller spots, mostly vessels, count less
_LARGER_IS_LIKELIER = 0.4


@shared
def nodule(
    scan: Scan,
    sizes: Sequence[float] = (0.015, 0.025, 0.04, 0.06, 0.085),
    level: float = 0.085,
    sharpness: float = 60.0,
    reach: float = 0.05,
) -> Map:
    """Round bright spots in the lungs or at their wall.

    Roundness is the smaller of the two principal curvatures in the axial plane, of the scan smoothed to a size and
    multiplied by the size squared (Lindeberg, Int J Comput Vis 30(2), 1998): high on spots, near zero along vessels
    and walls. In volumes neighbouring slices are smoothed too, half as wide, as slices are mostly thick.
    Grey levels are relative to lung (0) and soft tissue (1). A vessel that runs through the plane looks like a nodule.

    Args:
        scan: CT or radiograph.
        sizes: standard deviations of the filters, shares of the picture's size.
        level: roundness at which the probability is one half.
        sharpness: how fast it grows around it.
        reach: how far outside the lungs a nodule may lie, share of the picture's size.
    """
    air = lungs(scan) > 0.5
    if not air.any():
        return np.zeros_like(scan.values)
    values = _relative(scan.values, air)
    in_plane = float(np.prod(values.shape[:2])) ** 0.5
    best = np.zeros_like(values)
    for share in sizes:
        sigma = max(share * in_plane, 0.8)
        weighted = _roundness(values, sigma) * (share / _USUAL_SIZE) ** _LARGER_IS_LIKELIER
        best = np.maximum(best, _widened(weighted, sigma))
    found = logistic(sharpness * (best - level)) * dilated(air, reach * in_plane)
    return np.where(found < 0.02, 0, found)


def _relative(values: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Grey levels between lung (0) and the bright structures in and around it (1)."""
    low = np.percentile(values[air], 30)
    high = max(np.percentile(values, 98), np.percentile(values[air], 99.5))
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _roundness(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smaller principal curvature in the axial plane, positive where both are those of a bright spot."""
    sigmas = [sigma, sigma, *[max(sigma / 2, 0.7)] * (values.ndim - 2)]

    def curvature(x: int, y: int) -> np.ndarray:
        order = [x, y, *[0] * (values.ndim - 2)]
        return sigma**2 * ndimage.gaussian_filter(values, sigmas, order=order, mode="nearest", truncate=3.0)

    xx, yy, xy = curvature(2, 0), curvature(0, 2), curvature(1, 1)
    return np.maximum(-(xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2), 0)


def _widened(response: np.ndarray, sigma: float) -> np.ndarray:
    """From the middle of a spot to the whole spot; a slope keeps the maximum where it was."""
    width = 2 * round(0.85 * sigma) + 1
    wide = ndimage.maximum_filter(response, size=(width, width, *[1] * (response.ndim - 2)))
    return 0.8 * wide + 0.2 * response
