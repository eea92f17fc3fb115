# SPDX-License-Identifier: Apache-2.0
"""Differences between the two sides of a head or chest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from custom.localizers.operators.brain import brain
from custom.localizers.operators.coarse import Coarse, coarse_brain
from custom.localizers.operators.scan import Map, Scan, logistic, shared

SHIFTS = np.linspace(-0.08, 0.08, 9)  # of the mid-line from the centre, in diameters
TILTS = np.linspace(-0.2, 0.2, 5)  # slope of the mid-line against the axes, about +-11 degrees


@shared
def asymmetry(scan: Scan, contrast: str = "any", threshold: float = 0.15) -> Map:
    """Tissue that differs from its mirror image on the other side of the brain.

    Assumes a view in which left and right mirror each other along axis 0 (axial, coronal, volumes); on other views
    (sagittal), where no mid-line fits, the map is empty.

    Args:
        scan: MRI of a head.
        contrast: ``bright`` or ``dark`` against the mirror image, or ``any``.
        threshold: difference that gives the probability 0.5, in units of the brain's median level.
    """
    coarse = coarse_brain(scan)
    if coarse is None:
        return np.zeros_like(scan.values)
    difference = signed_asymmetry(coarse)
    strength = {"bright": difference, "dark": -difference, "any": np.abs(difference)}[contrast]
    return coarse.fine(logistic((strength - threshold) / (0.2 * threshold))) * brain(scan)


def signed_asymmetry(coarse: Coarse) -> np.ndarray:
    """Smoothed level minus its mirror image inside the brain, scaled down to 0 the worse the halves overlap."""
    level = np.where(coarse.inside, coarse.blurred(0.03), 0)
    mirrored, mirrored_inside = _mirror(level, coarse)
    both = coarse.inside & mirrored_inside
    overlap = both.sum() / max((coarse.inside | mirrored_inside).sum(), 1)
    trust = float(np.clip((overlap - 0.8) / 0.12, 0, 1))
    return np.where(both, level - mirrored, 0) * trust


def _mirror(level: np.ndarray, coarse: Coarse) -> tuple[np.ndarray, np.ndarray]:
    """Mirror image about the mid-line (mid-plane) that makes both sides most alike, of values and brain mask."""
    plane = min(_mid_planes(coarse), key=lambda each: float(np.abs(level - _mirrored(level, each)).mean()))
    return _mirrored(level, plane), _mirrored(coarse.inside.astype(np.float32), plane) > 0.5


def _mid_planes(coarse: Coarse) -> Iterator[np.ndarray]:
    """Candidates: position along axis 0 at every place of the other axes."""
    across = coarse.position(1)[0] * coarse.diameter / 2
    for shift, tilt in product(SHIFTS, TILTS):
        yield np.round(coarse.centre[0] + shift * coarse.diameter + tilt * across, 3)


def _mirrored(values: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Mirror along axis 0 to the nearest voxel; what comes from outside the grid is 0."""
    size = values.shape[0]
    index = np.round(2 * plane[None] - np.arange(size).reshape([-1] + [1] * plane.ndim)).astype(int)
    index = np.broadcast_to(index, values.shape)
    found = np.take_along_axis(values, np.clip(index, 0, size - 1), axis=0)
    return np.where((index >= 0) & (index < size), found, 0)
