# SPDX-License-Identifier: Apache-2.0
"""Lungs on CT: air inside the body, in Hounsfield units or grey values, on whole slices and on crops in the chest."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from custom.localizers.operators.field import holds_air
from custom.localizers.operators.scan import Scan, closed, dilated, eroded, filled_slices, largest, opened, smooth

ROOM_HU = -970.0  # between the air of a room (about -1000) and of the lung
LUNG_HU = -320.0  # between lung (about -800) and soft tissue (about 0)


def ct_lung_mask(scan: Scan, gap: float = 0.025, least: float = 0.004, keep: float = 0.15) -> np.ndarray:
    """Both lungs with the vessels and small lesions in them.

    Assumes axial slices (axis 2 of a volume is up). Air is below -320 HU or, in grey pictures, below Otsu's threshold
    of the body; what is joined to the picture's border through air is outside. Small parts (windpipe, bowel) go,
    closing brings back vessels and nodules. A crop inside the chest shows no outside: there all air is lung.
    Dense consolidation at the chest wall is lost.

    Args:
        scan: CT slice or volume.
        gap: radius of the closing, share of the picture's size.
        least: least share of the picture that a part must have.
        keep: least size of a part relative to the largest one.

    Returns:
        Boolean mask; empty where the body holds no air.
    """
    inside = _content(scan.values)
    result = np.zeros(scan.values.shape, bool)
    air = _air(scan, inside)
    parts = _large(_enclosed(air, _is_outside_air(scan, inside, air)), least, keep)
    if parts.any():
        radius = max(gap * scan.size, 1.0)
        reach = int(radius) + 2
        whole = filled_slices(closed(np.pad(parts, reach, mode="edge"), radius))
        result[inside] = whole[tuple(slice(reach, -reach) for _ in range(parts.ndim))]
    return result


def _air(scan: Scan, inside: tuple[slice, ...]) -> np.ndarray:
    values = smooth(scan.values[inside], 0.7)
    if scan.hounsfield:
        return values < LUNG_HU
    # Air and body are the two largest classes of grey values; very bright bone would draw the threshold up.
    top = np.percentile(values, 97)
    seen = np.minimum(values, top)
    return values < threshold_otsu(seen) if np.ptp(seen) > 0 else np.zeros(values.shape, bool)


def _content(values: np.ndarray) -> tuple[slice, ...]:
    """The picture without constant bars that pad it to a square."""
    empty = np.abs(values - values.min()) < 0.02 * np.ptp(values)
    spans = []
    for axis in (0, 1):
        others = tuple(other for other in range(values.ndim) if other != axis)
        filled = np.flatnonzero(empty.mean(axis=others) < 0.98)
        spans.append(slice(filled[0], filled[-1] + 1) if filled.size else slice(None))
    return (*spans, *[slice(None)] * (values.ndim - 2))


def _is_outside_air(scan: Scan, inside: tuple[slice, ...], air: np.ndarray) -> bool:
    """Whether the air in Hounsfield units is mostly that of a room, or padding, not that of lungs."""
    return bool(scan.hounsfield and air.any() and np.median(scan.values[inside][air]) < ROOM_HU)


def _enclosed(air: np.ndarray, is_room: bool = False, neck: float = 1.5) -> np.ndarray:
    """Air without the outside, which is what holds a corner of a slice; a crop inside the chest has no outside."""
    planes = air[..., None] if air.ndim == 2 else air
    outside = np.stack([_outside(planes[..., z], neck) for z in range(planes.shape[2])], axis=2).reshape(air.shape)
    within = air & ~outside
    tissue = ~air
    # On a whole slice the body is the larger part and holds air; in a crop the lung reaches the corners.
    whole = tissue.mean() > 0.3 and within.sum() > 0.05 * tissue.sum() and within.sum() > 0.5 * outside.sum()
    return within if whole or is_room or _surrounded(outside, tissue) else air


def _surrounded(outside: np.ndarray, tissue: np.ndarray) -> bool:
    """Whether air lies in all corners and along most of the rim: a body in air, however much, not a spot in a lung."""
    rim = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    corners = [outside[x, y].mean() for x in (0, -1) for y in (0, -1)]
    if rim.mean() <= 0.6 or min(corners) <= 0.8:
        return False
    return bool(outside.mean() < 0.65 or holds_air(largest(tissue), tissue))


def _outside(air: np.ndarray, neck: float) -> np.ndarray:
    core = eroded(air, neck)
    labels, _ = ndimage.label(core)
    corners = [labels[x, y] for x in (slice(3), slice(-3, None)) for y in (slice(3), slice(-3, None))]
    found = {int(corner.max()) for corner in corners} - {0}
    return air & dilated(np.isin(labels, list(found)), neck + 0.5) if found else np.zeros_like(air)


def _large(mask: np.ndarray, least: float, keep: float) -> np.ndarray:
    cut = opened(mask, 1.0)
    labels, count = ndimage.label(cut)
    if count == 0:
        return np.zeros_like(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(least * mask.size, keep * sizes.max(), 1))[labels]
