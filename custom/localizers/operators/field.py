# SPDX-License-Identifier: Apache-2.0
"""The part of the field of view that a body fills: operators measure scales and shares of what they are given."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from custom.localizers.operators.scan import filled_slices, is_hounsfield, largest, smooth

Box = tuple[slice, ...]
AIR_HU = -1000.0
_LEAST_AIR = 0.5  # share of the field of view that air around the box must fill; with less, scales hardly change
_TISSUE = 0.25  # from the grey level of the air (0) to that of bright tissue (1)
_FLAT, _MOSTLY = 0.05, 0.95  # air differs so little, in that unit, in so large a share of its voxels
_LUNG_HU = -970.0  # between the air of a room and that of lungs, emphysema included
_RIM = 0.1  # most of the rim that a body may touch which lies whole in the field of view
_PIECE = 0.01  # least size of what lies beside the body and is kept, arms for example, as a share of it
_HELD = 0.1  # least share of a body that is air within it
_MARGIN = 0.1  # of air around the body, share of its sides


def field_of_body(values: np.ndarray, modality: str) -> Box:
    """Return the box around a body that lies in a large field of view; all of it where there is no such body.

    Air around a body is what reaches the border, is dark and is flat, unlike the lung that fills a crop in the chest;
    padding below the value of air counts as air. Where a lung may be as dark as air (CT without Hounsfield units,
    radiographs) only what encloses air is a body: anything else may be a nodule.

    Args:
        values: ``[X, Y]`` or ``[X, Y, Z]``; axial slices of a volume lie in the first two axes.
        modality: ``mri``, ``ct`` or ``xray``.
    """
    whole, hounsfield = (slice(None),) * values.ndim, is_hounsfield(values)
    clipped = np.maximum(values, AIR_HU) if hounsfield else values
    shown = smooth(clipped, 1.0)
    air = float(np.median(_rim(shown)))
    if hounsfield and air > _LUNG_HU:
        return whole
    seen = shown[shown > air + 0.1 * (float(shown.max()) - air)]
    contrast = float(np.percentile(seen, 90)) - air if seen.size else 0.0
    if contrast <= 0:
        return whole
    tissue = shown > air + _TISSUE * contrast
    body = largest(tissue)
    if _rim(body).mean() > _RIM or not (modality == "mri" or hounsfield or holds_air(body, tissue)):
        return whole
    box = _around(_pieces(tissue, _PIECE * body.sum()))
    around = np.ones(values.shape, bool)
    around[box] = False
    if around.mean() < _LEAST_AIR or (np.abs(shown[around] - air) <= _FLAT * contrast).mean() < _MOSTLY:
        return whole
    return box


def whole_field(found: np.ndarray, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Return a map of the box in the whole field of view, where the air around is what it is in the box's corners."""
    corners = found[np.ix_(*[[0, -1]] * found.ndim)]
    result = np.full(shape, np.median(corners), dtype=np.float32)
    result[box] = found
    return result


def holds_air(body: np.ndarray, tissue: np.ndarray) -> bool:
    """Whether a piece of tissue encloses air in some slices, as a chest does and a nodule does not."""
    filled = filled_slices(body)
    areas = np.stack([filled & ~tissue, filled]).sum(axis=(1, 2)).reshape(2, -1)
    fullest = np.argsort(-areas[0], kind="stable")[: -(-areas.shape[1] // 4)]
    held, whole = areas[:, fullest].sum(axis=1)
    return bool(held > _HELD * whole)


def _rim(values: np.ndarray) -> np.ndarray:
    """Values along the border of the slices."""
    return np.concatenate([part.ravel() for part in (values[0], values[-1], values[:, 0], values[:, -1])])


def _pieces(mask: np.ndarray, least: float) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(least, 1))[labels]


def _around(mask: np.ndarray) -> Box:
    box = []
    for axis, size in enumerate(mask.shape):
        line = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        margin = max(2, round(_MARGIN * (line[-1] + 1 - line[0])))
        box.append(slice(max(int(line[0]) - margin, 0), min(int(line[-1]) + 1 + margin, size)))
    return tuple(box)
