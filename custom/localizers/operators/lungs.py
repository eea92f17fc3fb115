# SPDX-License-Identifier: Apache-2.0
"""Lungs on CT and on frontal radiographs."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.scan import Map, Scan, closed, eroded, shared, smooth, soft_edge
from custom.localizers.operators.xray_lungs import xray_lungs

LUNG_HU = -400.0


@shared
def lungs(scan: Scan, min_share: float = 0.004, close: float = 0.02) -> Map:
    """Lungs: on radiographs by shape and darkness, on CT as the air inside the body.

    CT: below -400 HU, or below Otsu's threshold of the body for pictures without Hounsfield units; parts that are too
    small, or thin (airways), are dropped; vessels and nodules are closed and filled. Consolidated lung is missed.
    A crop inside the lung, without a body around it, is treated alike.

    Args:
        scan: CT or frontal radiograph; 3D is CT.
        min_share: least size of a part, as a share of the picture.
        close: radius of gaps to close (vessels, nodules at the wall), as a share of the picture's size.
    """
    if scan.modality == "xray" and scan.values.ndim == 2:
        return xray_lungs(scan)
    return soft_edge(lung_mask(scan, min_share, close))


def lung_mask(scan: Scan, min_share: float = 0.004, close: float = 0.02) -> np.ndarray:
    """Boolean lungs of a CT scan."""
    air = _air(scan)
    parts, _ = ndimage.label(ndimage.binary_opening(air) if min(air.shape) > 8 else air)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = (sizes >= max(min_share * air.size, 1))[parts]
    if not mask.any():
        return mask
    mask = closed(mask, close * scan.size)
    return _filled_by_slice(mask) & body_mask(scan)


def _air(scan: Scan) -> np.ndarray:
    """Air inside the body."""
    body = body_mask(scan)
    values = smooth(scan.values, 0.7)
    if scan.hounsfield:
        return body & (values < LUNG_HU)
    inner = body & eroded(body, 0.01 * scan.size)
    inside = values[inner]
    if inside.size == 0 or np.ptp(inside) == 0:
        return np.zeros_like(body)
    return body & (values < float(threshold_otsu(inside)))


def _filled_by_slice(mask: np.ndarray) -> np.ndarray:
    if mask.ndim == 2:
        return ndimage.binary_fill_holes(mask)
    return np.stack([ndimage.binary_fill_holes(mask[:, :, index]) for index in range(mask.shape[2])], axis=2)
