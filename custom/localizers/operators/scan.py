# SPDX-License-Identifier: Apache-2.0
"""The scan as operators see it: grey values, what is known of them, and results shared between operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from scipy import ndimage

Map = np.ndarray
Source = Callable[..., Map]
Result = TypeVar("Result")


class Scan:
    """Grey values with their context.

    Args:
        values: ``[X, Y]`` or ``[X, Y, Z]`` float32.
        modality: ``mri``, ``ct`` or ``xray``.
        low_side: the patient's side at low indices of axis 0, ``left`` or ``right``.

    - ``hounsfield``: whether the values look like Hounsfield units (air far below zero).
    """

    def __init__(self, values: np.ndarray, modality: str, low_side: str) -> None:
        self.values = values.astype(np.float32, copy=False)
        self.modality = modality
        self.low_side = low_side
        self.hounsfield = is_hounsfield(values)
        self._shared: dict[Any, Any] = {}

    @property
    def size(self) -> float:
        """Median side length in voxels, of which scales are given as a share: thin stacks do not lower it."""
        return float(np.median(self.values.shape))

    def once(self, key: Any, make: Callable[[], Result]) -> Result:
        """Return the result kept under a key, made at the first call."""
        if key not in self._shared:
            self._shared[key] = make()
        result: Result = self._shared[key]
        return result


def is_hounsfield(values: np.ndarray) -> bool:
    """Whether values look like Hounsfield units: only there air lies hundreds below zero."""
    return bool(values.min() < -200)


def shared(operator: Source) -> Source:
    """Compute an operator once a scan and set of parameters, whoever asks."""

    @functools.wraps(operator)
    def call(scan: Scan, **parameters: Any) -> Map:
        key = (operator.__name__, repr(sorted(parameters.items())))
        return scan.once(key, lambda: operator(scan, **parameters).astype(np.float32, copy=False))

    return call


def unit(values: np.ndarray, low: float = 1.0, high: float = 99.5) -> np.ndarray:
    """Scale robustly: the given percentiles become 0 and 1, what lies beyond is cut; constant values become 0."""
    bottom, top = np.percentile(values, [low, high])
    if top <= bottom:
        bottom, top = float(values.min()), float(values.max())
    if top <= bottom:
        return np.zeros_like(values, dtype=np.float32)
    return np.clip((values - bottom) / (top - bottom), 0, 1).astype(np.float32)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter with sigma in voxels."""
    return ndimage.gaussian_filter(values.astype(np.float32, copy=False), sigma, mode="nearest", truncate=3.0)


def logistic(values: np.ndarray) -> np.ndarray:
    """Logistic function, from evidence to probability."""
    return (1 / (1 + np.exp(-np.clip(values, -30, 30)))).astype(np.float32)


def ratio_probability(values: np.ndarray, half: float, power: float = 3.0) -> np.ndarray:
    """From strength to probability: 0.5 at ``half``, 0 at nothing, near 1 at several times it (Hill's function)."""
    strength = (np.maximum(values, 0) / half) ** power
    return (strength / (1 + strength)).astype(np.float32)


def largest(mask: np.ndarray, count: int = 1) -> np.ndarray:
    """Keep the ``count`` largest connected components of a boolean mask."""
    labels, found = ndimage.label(mask)
    if found <= count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.argsort(-sizes, kind="stable")[:count])


def soft_edge(mask: np.ndarray, sigma: float = 0.7) -> np.ndarray:
    """Boolean mask to a map with an edge about two voxels wide; zero stays zero far from the mask."""
    edge = np.clip(smooth(mask, sigma), 0, 1)
    return np.where(edge < 0.02, 0, edge).astype(np.float32)


def eroded(mask: np.ndarray, distance: float) -> np.ndarray:
    """Voxels further than a distance (in voxels) from the outside; the border of the picture does not count."""
    return ndimage.distance_transform_edt(mask) > distance if not mask.all() else mask


def dilated(mask: np.ndarray, distance: float) -> np.ndarray:
    """Voxels within a distance (in voxels) of the mask."""
    return ndimage.distance_transform_edt(~mask) <= distance if mask.any() else mask


def opened(mask: np.ndarray, distance: float) -> np.ndarray:
    """Morphological opening with a disc or ball, by distance transforms."""
    return mask & dilated(eroded(mask, distance), distance)


def closed(mask: np.ndarray, distance: float) -> np.ndarray:
    """Morphological closing with a disc or ball, by distance transforms."""
    return mask | eroded(dilated(mask, distance), distance)


def filled_slices(mask: np.ndarray) -> np.ndarray:
    """Fill holes; of a volume in each axial slice."""
    if mask.ndim == 2:
        return ndimage.binary_fill_holes(mask)
    return np.stack([ndimage.binary_fill_holes(mask[..., z]) for z in range(mask.shape[2])], axis=2)
