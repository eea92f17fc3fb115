# SPDX-License-Identifier: Apache-2.0
"""Random fields and scanner noise of the phantoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline

Array = np.ndarray


def _spline_basis(points: int, knots: int) -> Array:
    """Cubic B-spline basis [points, knots] on a uniform knot vector; one row a grid position."""
    vector = np.arange(knots + 4) - 3.0
    positions = np.linspace(0, knots - 3, points + 2)[1:-1]
    return BSpline.design_matrix(positions, vector, 3).toarray().astype(np.float32)


def smooth_field(rng: np.random.Generator, shape: Sequence[int], knots: int = 6) -> Array:
    """Smooth random field: a cubic B-spline surface through normal control values.

    Args:
        rng: source of the control values.
        shape: grid size, any number of axes (an axis of length 1 is allowed).
        knots: control values an axis, at least 4; more knots give faster changes.

    Returns:
        float32 array of `shape`, mean about 0, standard deviation of order 0.5.
    """
    field = rng.standard_normal([knots] * len(shape)).astype(np.float32)
    for axis, points in enumerate(shape):
        field = np.moveaxis(np.tensordot(_spline_basis(points, knots), field, axes=(1, axis)), 0, axis)
    return field


def band_noise(rng: np.random.Generator, shape: Sequence[int], sigma: Sequence[float]) -> Array:
    """Band-pass noise (difference of Gaussians) whose zero level winds like the folds of a cortex.

    Args:
        rng: source of the white noise.
        shape: grid size.
        sigma: inner Gaussian's standard deviation an axis, in voxels; the outer one is 1.6 times wider.

    Returns:
        float32 array of `shape` with unit standard deviation.
    """
    white = rng.standard_normal(shape).astype(np.float32)
    narrow = ndimage.gaussian_filter(white, sigma, truncate=3)
    field = narrow - ndimage.gaussian_filter(white, [1.6 * s for s in sigma], truncate=3)
    return field / max(float(field.std()), 1e-6)


def point_spread(image: Array, sigma: float) -> Array:
    """Blur of the scanner: Gaussian with `sigma` in voxels (none along axes of length 1)."""
    return ndimage.gaussian_filter(image, [sigma if n > 1 else 0 for n in image.shape], truncate=3)


def rician(rng: np.random.Generator, image: Array, sigma: float) -> Array:
    """Magnitude of a complex MR signal with Gaussian noise in both channels (Gudbjartsson and Patz 1995)."""
    real = image + sigma * rng.standard_normal(image.shape)
    return np.hypot(real, sigma * rng.standard_normal(image.shape)).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: Sequence[int], strength: float) -> Array:
    """Smooth multiplicative receive-coil field around 1; `strength` is about the spread of its logarithm."""
    return np.exp(strength * smooth_field(rng, shape, knots=4))
