# SPDX-License-Identifier: Apache-2.0
"""Lesions of the brain: blobs, asymmetries and rough places, weighed against where lesions are likely."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.coarse import Coarse, coarse_brain
from custom.localizers.operators.scan import Map, Scan, logistic, shared, smooth
from custom.localizers.operators.symmetry import signed_asymmetry

# Log-odds a unit of each feature, from a logistic regression on the train split of brain_mri_cheng (600 slices,
# T1 with contrast agent, box of the tumour against the rest of the head), rounded.
BRIGHT: Mapping[str, float] = MappingProxyType(
    {"level": 0.66, "bright_blob": 1.6, "bright_side": 1.3, "bright_blob_side": 11.0}
)
DARK: Mapping[str, float] = MappingProxyType({"dark": 3.7, "dark_side": 2.4})
BOTH: Mapping[str, float] = MappingProxyType({"rough": 4.0, "edge": -0.26})
OFFSET = -0.6  # puts the median slice's tumour at 0.5; the regression's own offset, for equal priors, is -1.2
CENTRALITY = 5.5  # log-odds lost at the head's border; the same in all directions of the head's bounding box
HEIGHT = -0.24  # where lesions are likeliest: this share of the head's half height below (-: above) its middle
TYPICAL = (
    1.25  # median log-odds of a brain, to which every brain's own median is shifted: coarse scans are rough all over
)
LEAST_EVIDENCE = 0.7  # log-odds without the prior below which a place is no lesion, however likely the place


@shared
def lesion(scan: Scan, contrast: str = "any", prior: float = 1.0, threshold: float = 0.0) -> Map:
    """Lesions inside the brain, brighter or darker than the brain or unlike the other side.

    The log-odds are a weighted sum of features in units of the brain's own level and diameter (blobs by difference of
    Gaussians, asymmetry, roughness) plus a weak prior for central places. Where the features alone say nothing, the
    map stays below 0.5 whatever the prior; a sharp border to the bone may leave a thin rim above it.
    Assumes a head with its skull, or brain only; tuned on T1 with contrast agent. On volumes the features are
    three-dimensional.

    Args:
        scan: MRI of a head.
        contrast: ``bright``, ``dark`` or ``any``.
        prior: weight of the prior for central places; 0: none.
        threshold: log-odds to subtract: higher values give smaller regions.
    """
    coarse = coarse_brain(scan)
    if coarse is None:
        return np.zeros_like(scan.values)
    evidence = _evidence(_features(coarse), contrast)
    # A featureless brain is not lifted to the typical level, so that it stays empty.
    evidence = evidence - max(float(np.median(evidence[coarse.inside])) - TYPICAL, 0)
    place = -CENTRALITY * _distance_from_likely_place(scan, coarse)
    found = logistic(evidence + prior * place - threshold) * logistic(3 * (evidence - LEAST_EVIDENCE - threshold))
    near = ndimage.distance_transform_edt(~coarse.inside) <= 0.15 * coarse.diameter
    return np.clip(coarse.fine(smooth(found * near, 0.018 * coarse.diameter)), 0, 1)


def _evidence(features: Mapping[str, np.ndarray], contrast: str) -> np.ndarray:
    weights = dict(BOTH)
    weights.update(BRIGHT if contrast in ("bright", "any") else {})
    weights.update(DARK if contrast in ("dark", "any") else {})
    return np.asarray(OFFSET + sum(weight * features[name] for name, weight in weights.items()))


def _features(coarse: Coarse) -> dict[str, np.ndarray]:
    """Features of every place, relative to the brain's level; roots make small differences count."""
    difference = signed_asymmetry(coarse)
    blob = _root(coarse.blurred(0.1) - coarse.blurred(0.22), 0.6)
    variance = coarse.blurred(0.03, coarse.level**2) - coarse.blurred(0.03) ** 2
    bright_side = _root(difference, 0.6)
    return {
        "level": np.clip(coarse.blurred(0.02), 0, 2.5),
        "bright_blob": blob,
        "bright_side": bright_side,
        "bright_blob_side": blob * bright_side,
        "dark": np.clip(1 - coarse.blurred(0.07), 0, 0.6),
        "dark_side": _root(-difference, 0.6),
        "rough": _root(variance, 0.36),
        "edge": np.minimum(ndimage.distance_transform_edt(~coarse.inside) / (0.05 * coarse.diameter), 1),
    }


def _root(values: np.ndarray, most: float) -> np.ndarray:
    return np.sqrt(np.clip(values, 0, most))


def _distance_from_likely_place(scan: Scan, coarse: Coarse) -> np.ndarray:
    """Squared distance from the place where lesions are likeliest, in half sides of the head's bounding box."""
    dims = coarse.inside.ndim
    up = 1 if dims == 2 else 2  # the axis that runs between crown and neck; downwards in pictures, upwards in volumes
    squared = np.zeros([1] * dims)
    for axis, (first, last) in enumerate(_extent(body_mask(scan))):
        place = np.linspace(0, scan.values.shape[axis] - 1, coarse.inside.shape[axis])
        place = (place - (first + last) / 2) / max((last - first) / 2, 1)
        if axis == up:
            place = place - (HEIGHT if dims == 2 else -HEIGHT)
        squared = squared + (place**2).reshape([-1 if each == axis else 1 for each in range(dims)])
    return squared


def _extent(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of a mask along every axis."""
    others = [tuple(other for other in range(mask.ndim) if other != axis) for axis in range(mask.ndim)]
    lines = [np.flatnonzero(mask.any(axis=other)) for other in others]
    return [(int(line[0]), int(line[-1])) for line in lines]
