# SPDX-License-Identifier: Apache-2.0
"""Nodules and opacities of the lung."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from custom.localizers.operators.blobs import blobness
from custom.localizers.operators.lungs import lung_mask, lungs
from custom.localizers.operators.scan import Map, Scan, closed, logistic, ratio_probability, shared, smooth

WINDOW_HU = (-850.0, 50.0)  # lung and soft tissue
MOST_PARTS = 4


@shared
def nodule(
    scan: Scan,
    scales: tuple[float, ...] = (0.012, 0.02, 0.03, 0.045, 0.065),
    threshold: float = 0.1,
    reach: float = 0.2,
    least: float = 0.3,
    power: float = 0.5,
) -> Map:
    """Bright round spots in or at the lung.

    Blobness is the smallest of the Hessian's curvatures, so that vessels and the chest wall, which are flat in one
    direction, count little. It is normalised by scale and in units of the display window (air to soft tissue), so that
    a fixed threshold means the same in every scan. A vessel seen end-on looks like a small nodule.

    Args:
        scan: CT (Hounsfield units or grey picture; crops may do) or radiograph.
        scales: Gaussian scales as a share of the picture's size; a ball of radius r answers most at r / sqrt(dims).
        threshold: blobness that gives the probability 0.5.
        reach: radius of gaps in a lung that are searched as well (nodules at the chest wall), as a share of that
            lung's size.
        least: brightness of a nodule on the way from lung (0) to soft tissue (1).
        power: how much air around a spot counts; 0: not at all.
    """
    inside = _search_area(scan, reach)
    values = _detail(scan, inside) if scan.modality == "xray" else windowed(scan)
    strength = blobness(values, [scale * scan.size for scale in scales])
    if scan.modality != "xray":
        strength = strength * np.clip(smooth(values < least, 0.06 * scan.size) / 0.5, 0, 1) ** power
    bright = logistic((smooth(values, 0.7) - least) / 0.05)
    return np.clip(ratio_probability(strength, threshold) * bright * inside, 0, 1)


def windowed(scan: Scan) -> np.ndarray:
    """Grey values from lung (0) to soft tissue (about 1), cut at 1.5.

    Hounsfield units by a fixed window; other values by the medians below and above Otsu's threshold.
    """
    if scan.hounsfield:
        low, high = WINDOW_HU
    else:
        values = smooth(scan.values, 0.7)
        cut = float(threshold_otsu(values))
        low, high = float(np.median(values[values <= cut])), float(np.median(values[values > cut]))
    return np.clip((scan.values - low) / max(high - low, 1e-6), -0.5, 1.5)


def _detail(scan: Scan, inside: np.ndarray) -> np.ndarray:
    """Radiograph against its neighbourhood, in units of four standard deviations inside the lungs."""
    detail = scan.values - smooth(scan.values, 0.06 * scan.size)
    lung = detail[inside > 0.5]
    spread = 1.4826 * float(np.median(np.abs(lung - np.median(lung)))) if lung.size else 0.0
    return detail / (4 * spread) if spread > 0 else np.zeros_like(detail)


def _search_area(scan: Scan, reach: float) -> np.ndarray:
    if scan.modality == "xray":
        return lungs(scan)
    parts, count = ndimage.label(lung_mask(scan))
    # Each lung on its own: closing both together would bridge the mediastinum.
    lungs_apart = [parts == index for index in range(1, min(count, MOST_PARTS) + 1)]
    closings = [closed(part, reach * float(part.sum()) ** (1 / part.ndim)) for part in lungs_apart]
    return smooth(np.any(closings, axis=0), 1.0) if count else np.zeros_like(scan.values)


@shared
def opacity(scan: Scan, threshold: float = 0.35) -> Map:
    """Lung that is denser than the rest of the lung: ground glass, consolidation, infiltrates.

    On CT: inside the closed outline of the lungs, brighter than air-filled lung, smoothed so that vessels fade. On
    radiographs: inside the fitted lung shapes, brighter than their median in units of their robust spread, where heart
    and diaphragm answer, too. Sides that are white altogether are seen only as far as the shapes reach.

    Args:
        scan: CT or frontal radiograph.
        threshold: brightness that gives the probability 0.5, between lung (0) and soft tissue (1).
    """
    inside = _search_area(scan, 0.3)
    lung = inside > 0.5
    if not lung.any():
        return np.zeros_like(scan.values)
    level = smooth(_relative_level(scan, lung) if scan.modality == "xray" else windowed(scan), 0.012 * scan.size)
    return logistic((level - threshold) / 0.07) * inside


def _relative_level(scan: Scan, lung: np.ndarray) -> np.ndarray:
    values = smooth(scan.values, 0.02 * scan.size)
    median = float(np.median(values[lung]))
    spread = 1.4826 * float(np.median(np.abs(values[lung] - median)))
    return (values - median) / (4 * spread) if spread > 0 else np.zeros_like(values)
