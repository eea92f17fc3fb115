# SPDX-License-Identifier: Apache-2.0
"""Chest radiograph: the CT phantom seen from the front."""

from __future__ import annotations

import numpy as np

from datasets.phantoms import chest_ct
from datasets.phantoms.fields import Array, point_spread
from datasets.phantoms.shapes import Canvas, Grid

WATER = 0.018  # attenuation of water at about 80 keV, 1/mm
DEPTH_OF_VIEW = 300.0  # mm from back to front


def xray_grid(size: tuple[int, ...]) -> Grid:
    """Grid of the volume behind a radiograph: the picture's pixels, and coarser steps along the rays."""
    fov = chest_ct.FIELD_OF_VIEW
    depth = max(16, min(size) // 4)
    return Grid((size[0], depth, size[1]), (fov / size[0], DEPTH_OF_VIEW / depth, fov / size[1]), (0.0, 0.0, -5.0))


def project(canvas: Canvas) -> tuple[Array, Array]:
    """Line integrals from back to front.

    Args:
        canvas: a chest in Hounsfield units.

    Returns:
        The attenuation `-log(I / I0)` and the codes of the picture, both `[X, Z]`: body, and each lung where its
        rays cross at least a quarter of the lung's greatest depth.
    """
    step = canvas.grid.spacing[1]
    relative = np.clip(canvas.image / 1000 + 1, 0, None)
    bone = np.clip(canvas.image - 120, 0, None) / 1000  # calcium absorbs more at lower energies
    attenuation = WATER * step * (relative + 2.6 * bone).sum(1)
    codes = np.where((canvas.codes > 0).any(1), chest_ct.BODY, 0).astype(np.uint8)
    for lung in (chest_ct.RIGHT_LUNG, chest_ct.LEFT_LUNG):
        depth = np.isin(canvas.codes, (lung, lung + 2)).sum(1)
        codes[depth >= max(1.0, 0.3 * depth.max())] = lung
    return attenuation.astype(np.float32), codes


def scan_xray(rng: np.random.Generator, attenuation: Array) -> Array:
    """Detector: scatter, photon noise and the usual window; returns grey levels 0 to 255, dense tissue bright."""
    photons = rng.uniform(1.5e4, 4e4)
    arrived = photons * np.exp(-attenuation)
    arrived = 0.85 * arrived + 0.15 * point_spread(arrived, 6.0)
    counted = np.maximum(rng.poisson(arrived), 1)
    film = -np.log(counted / photons)
    body = film[film > 0.3]
    low, high = np.percentile(body if body.size else film, (2.0, 99.5))
    scaled = np.clip((film - low) / max(high - low, 1e-3), -0.1, 1.1)
    shoulder = rng.uniform(1.0, 1.7)  # film-like curve: more contrast in the lungs than behind the heart
    curve = (1 - np.exp(-shoulder * scaled)) / (1 - np.exp(-shoulder))
    return np.clip(255 * (0.08 + 0.86 * curve), 0, 255)
