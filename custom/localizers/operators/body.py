# SPDX-License-Identifier: Apache-2.0
"""The body against the air around it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from custom.localizers.operators.scan import Map, Scan, largest, shared, smooth, soft_edge, unit

AIR_HU = -400.0


@shared
def body(scan: Scan, level: float = 0.5, min_share: float = 0.02) -> Map:
    """The body: Otsu's threshold, largest component, holes filled.

    Assumes that air is dark. In Hounsfield units the threshold is -400 HU instead. A crop that shows no air is body
    all over.

    Args:
        scan: any modality.
        level: share of Otsu's threshold (between the darkest value and it) above which a voxel is body: below 1,
            because dark tissue is nearer to air than to the mean of all tissue.
        min_share: least share of the picture that counts as a body.

    Returns:
        Map in [0, 1] with soft edges.
    """
    return soft_edge(body_mask(scan, level, min_share))


def body_mask(scan: Scan, level: float = 0.5, min_share: float = 0.02) -> np.ndarray:
    """Boolean mask of :func:`body`, shared between operators."""
    return scan.once(("body_mask", level, min_share), lambda: _body_mask(scan, level, min_share))


def _body_mask(scan: Scan, level: float, min_share: float) -> np.ndarray:
    values = smooth(scan.values, 1.0)
    mask = largest(values > _air_level(scan, values, level))
    mask = _filled(mask)
    return mask if mask.mean() >= min_share else np.zeros_like(mask)


def _air_level(scan: Scan, values: np.ndarray, level: float) -> float:
    if scan.hounsfield:
        return AIR_HU
    scaled = unit(values, 0.0, 99.5)
    bottom, top = np.percentile(values, [0.0, 99.5])
    if scan.modality == "xray":
        # Lungs are as dark as air on a radiograph: only black borders are outside.
        return float(bottom + 0.04 * (top - bottom))
    # Otsu's threshold is always somewhere; where nothing is dark there is no air.
    cut = level * float(threshold_otsu(scaled)) if scaled.max() > 0 else 0.0
    return float(bottom + cut * (top - bottom))


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill holes; in a volume also slice by slice, as airways and sinuses open to the cut ends."""
    filled = ndimage.binary_fill_holes(mask)
    if mask.ndim == 3:
        for index in range(mask.shape[2]):
            filled[:, :, index] = ndimage.binary_fill_holes(filled[:, :, index])
    return filled
