# SPDX-License-Identifier: Apache-2.0
"""Lesions that differ in brightness from the tissue around them."""

from __future__ import annotations

import numpy as np

from custom.localizers.operators.brain import brain
from custom.localizers.operators.scan import Map, Scan, logistic, shared, smooth


@shared
def lesion(scan: Scan, contrast: str = "any", threshold: float = 2.0, scales: tuple[float, ...] = (0.015, 0.03)) -> Map:
    """Blobs that differ from the brain's median, in robust standard deviations of the brain.

    Args:
        scan: MRI of a head.
        contrast: ``bright``, ``dark`` or ``any``.
        threshold: robust z-score that gives the probability 0.5.
        scales: Gaussian scales, as a share of the picture's size.
    """
    inside = brain(scan)
    mask = inside > 0.5
    if not mask.any():
        return np.zeros_like(scan.values)
    best = np.full(scan.values.shape, -np.inf, dtype=np.float32)
    for scale in scales:
        best = np.maximum(best, _contrast(scan.values, mask, scale * scan.size, contrast))
    return logistic(2 * (best - threshold)) * inside


def _contrast(values: np.ndarray, mask: np.ndarray, sigma: float, contrast: str) -> np.ndarray:
    blurred = smooth(values, sigma)
    centre = np.median(blurred[mask])
    spread = 1.4826 * float(np.median(np.abs(blurred[mask] - centre))) + 1e-6 * float(np.ptp(values)) + 1e-12
    score = (blurred - centre) / spread
    return {"bright": score, "dark": -score, "any": np.abs(score)}[contrast]
