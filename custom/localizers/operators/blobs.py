# SPDX-License-Identifier: Apache-2.0
"""Round structures at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from custom.localizers.operators.scan import smooth


def blobness(values: np.ndarray, sigmas: Sequence[float], larger: float = 0.3) -> np.ndarray:
    """Scale-normalised least curvature of bright structures, spread over their extent; the largest of all scales.

    For a bright blob all second derivatives are negative; for a line or plane one or two are near zero (Frangi et al.,
    MICCAI 1998, section 2). The answer at the centre is multiplied by sigma squared, then spread by a maximum filter
    over the blob's radius.

    Args:
        values: ``[X, Y]`` or ``[X, Y, Z]``.
        sigmas: scales in voxels; below 1 they are raised to 1.
        larger: answers are multiplied by ``(sigma / mean sigma) ** larger``: small spots are mostly vessels.

    Returns:
        Non-negative array; about 0.3 in the middle of an ideal disc of height 1 at the best scale.
    """
    best = np.zeros_like(values, dtype=np.float32)
    usual = max(1.0, float(np.mean(sigmas)))
    for sigma in sorted({max(1.0, float(sigma)) for sigma in sigmas}):
        curvature = -_largest_curvature(values, sigma) * sigma**2 * (sigma / usual) ** larger
        spread = ndimage.maximum_filter(np.maximum(curvature, 0), size=2 * round(0.8 * sigma) + 1)
        # A share of the answer itself keeps the maximum in the middle.
        best = np.maximum(best, 0.8 * smooth(spread, 0.5 * sigma) + 0.2 * curvature)
    return best


def _largest_curvature(values: np.ndarray, sigma: float) -> np.ndarray:
    """Largest eigenvalue of the Hessian at a Gaussian scale, over the axes that are long enough to show a blob."""
    axes = [axis for axis, size in enumerate(values.shape) if 3 * size >= max(values.shape)]
    hessian = np.empty((*values.shape, len(axes), len(axes)), dtype=np.float32)
    for first, second in combinations_with_replacement(range(len(axes)), 2):
        order = [(axis == axes[first]) + (axis == axes[second]) for axis in range(values.ndim)]
        part = ndimage.gaussian_filter(values, sigma, order=order, mode="nearest", truncate=3.0)
        hessian[..., first, second] = hessian[..., second, first] = part
    if len(axes) == 2:
        return _largest_of_two(hessian)
    return _largest_of_three(hessian)


def _largest_of_two(hessian: np.ndarray) -> np.ndarray:
    half_trace = (hessian[..., 0, 0] + hessian[..., 1, 1]) / 2
    half_gap = (hessian[..., 0, 0] - hessian[..., 1, 1]) / 2
    return half_trace + np.sqrt(half_gap**2 + hessian[..., 0, 1] ** 2)


def _largest_of_three(hessian: np.ndarray) -> np.ndarray:
    """Largest eigenvalue of symmetric 3 x 3 matrices in closed form (Smith, Commun ACM 4(4), 1961)."""
    xx, yy, zz = (hessian[..., axis, axis] for axis in range(3))
    xy, xz, yz = hessian[..., 0, 1], hessian[..., 0, 2], hessian[..., 1, 2]
    mean = (xx + yy + zz) / 3
    off = xy**2 + xz**2 + yz**2
    spread = np.sqrt(((xx - mean) ** 2 + (yy - mean) ** 2 + (zz - mean) ** 2 + 2 * off) / 6)
    scale = 1 / np.maximum(spread, 1e-12)
    a, b, c, d, e, f = (
        (xx - mean) * scale,
        (yy - mean) * scale,
        (zz - mean) * scale,
        xy * scale,
        xz * scale,
        yz * scale,
    )
    half_determinant = (a * (b * c - f**2) - d * (d * c - f * e) + e * (d * f - b * e)) / 2
    angle = np.arccos(np.clip(half_determinant, -1, 1)) / 3
    return np.asarray(mean + 2 * spread * np.cos(angle), dtype=np.float32)
