# SPDX-License-Identifier: Apache-2.0
"""Lungs on frontal radiographs: an outline of both lungs, placed where the picture looks like a chest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.feature import match_template
from skimage.transform import resize

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.scan import Map, Scan, logistic, smooth, unit

# Outlines in the box around both lungs: (0, 0) its top left, (1, 1) its bottom right, the patient's right lung first.
# Means over 117 radiographs of outlines drawn by hand (V7 covid-19-xray-dataset, CC BY 4.0; the train split of the set
# that they are measured on), to two digits. They hold the lung behind the heart.
OUTLINES = (
    ((0.43, 0.32), (0.44, 0.13), (0.42, 0.05), (0.37, 0.01), (0.29, 0.03), (0.17, 0.13), (0.08, 0.32), (0.01, 0.79),
     (0.01, 0.94), (0.02, 0.96), (0.09, 0.88), (0.15, 0.84), (0.35, 0.85), (0.39, 0.82)),
    ((0.99, 0.96), (0.95, 0.45), (0.90, 0.24), (0.79, 0.07), (0.70, 0.02), (0.62, 0.02), (0.58, 0.05), (0.57, 0.16),
     (0.59, 0.88), (0.63, 0.92), (0.77, 0.89), (0.85, 0.89), (0.91, 0.92), (0.98, 0.97)),
)  # fmt: skip
_WIDTHS = np.arange(0.55, 1.01, 0.09)  # of the box, relative to the body's width
_ASPECTS = (0.9, 1.05, 1.2, 1.4, 1.6)  # width over height of the box
_PIXELS = 48  # long side of the picture that is searched
_MARGIN = 0.1  # surroundings that the template holds, relative to the box
_EDGE = 0.02  # softness of the outline, relative to the box


class Box(NamedTuple):
    """Where the lungs lie, in pixels, and how much it looks like a chest (correlation in [-1, 1])."""

    low: np.ndarray
    high: np.ndarray
    likeness: float


def radiograph_lungs(scan: Scan, likeness: float = 0.32, sharpness: float = 15.0) -> Map:
    """Both lungs, the part behind the heart included.

    Assumes a frontal view, upright, lungs darker than what surrounds them. A schematic chest (dark lungs, bright
    middle, bright abdomen, heart) is compared with the picture at all places, widths and proportions by normalised
    cross-correlation, weighted by where chests usually lie; the best match places the mean outlines. Outlines follow
    the box, not the single patient's dome or heart. Method: template matching, Lewis, Vision Interface 1995.

    Args:
        scan: radiograph ``[X, Y]``.
        likeness: correlation at which the probability is halved: pictures that are no chest come out empty.
        sharpness: how fast it falls below.

    Returns:
        Map in [0, 1]; zero where nothing looks like a chest.
    """
    body = body_mask(scan)
    if scan.values.ndim != 2:
        raise ValueError(f"A radiograph has 2 dimensions, received {scan.values.ndim}.")
    if not body.any() or min(scan.values.shape) < 16:
        return np.zeros_like(scan.values)
    turned = slice(None, None, -1) if scan.low_side == "left" else slice(None)
    box = _find(unit(scan.values, 0.5, 99.5)[turned], *_extent(body[turned]))
    certainty = float(logistic(np.asarray(sharpness * (box.likeness - likeness))))
    found = certainty * _place(_schema(96, 0.0)[0], box, scan.values.shape)[turned]
    return np.where(found < 0.02, 0, found).astype(np.float32)


def _extent(body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the rows and columns that the body fills to at least 15 %."""
    filled = [np.flatnonzero(body.mean(axis=1 - axis) > 0.15) for axis in (0, 1)]
    if any(where.size == 0 for where in filled):
        return np.zeros(2, int), np.array(body.shape)
    return np.array([where[0] for where in filled]), np.array([where[-1] + 1 for where in filled])


def _find(picture: np.ndarray, low: np.ndarray, high: np.ndarray) -> Box:
    crop = picture[low[0] : high[0], low[1] : high[1]]
    size = np.maximum(np.round(np.array(crop.shape) * _PIXELS / max(crop.shape)).astype(int), 8)
    small = _normalised(resize(crop, size, order=1, anti_aliasing=True))
    pad = _PIXELS // 3
    padded = np.pad(small, pad, mode="edge")
    schema = _schema(96, _MARGIN)[1]
    coarse = [(width, aspect) for width in _WIDTHS for aspect in _ASPECTS]
    best = max((_match(padded, schema, each, size, pad) for each in coarse), key=lambda each: each[0])
    width, aspect = best[3][0], best[3][0] * size[0] / (best[3][1] * size[1])
    fine = [(width + step, aspect * ratio) for step in (-0.03, 0, 0.03) for ratio in (0.93, 1, 1.07)]
    best = max((_match(padded, schema, each, size, pad) for each in fine), key=lambda each: each[0])
    _, likeness, centre, extent = best
    shape = np.array(crop.shape)
    return Box(low + (centre - extent / 2) * shape, low + (centre + extent / 2) * shape, float(likeness))


def _match(
    padded: np.ndarray, schema: np.ndarray, proportions: tuple[float, float], size: np.ndarray, pad: int
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Best place of a box of one size: score, correlation, centre and extent relative to the picture."""
    width = proportions[0] * size[0]
    extent = np.array([width, width / proportions[1]])
    template = np.round(extent * (1 + 2 * _MARGIN)).astype(int)
    if (template > padded.shape).any() or not 0.35 * size[1] <= extent[1] <= 1.02 * size[1]:
        return -np.inf, 0.0, np.zeros(2), np.ones(2)
    correlation = match_template(padded, resize(schema, template, order=1, anti_aliasing=True))
    centres = [
        (np.arange(count) + side / 2 - pad) / whole
        for count, side, whole in zip(correlation.shape, template, size, strict=True)
    ]
    relative = extent / size
    score = correlation - _unlikely(centres, relative, extent[0] / extent[1])
    place = np.unravel_index(score.argmax(), score.shape)
    centre = np.array([axis[index] for axis, index in zip(centres, place, strict=True)])
    return float(score[place]), float(correlation[place]), centre, relative


def _unlikely(centres: list[np.ndarray], extent: np.ndarray, aspect: float) -> np.ndarray:
    """What is taken off the correlation for chests in unusual places or proportions, or beyond the picture."""
    x, y = centres[0][:, None], centres[1][None]
    beyond = sum(
        np.maximum(half / 2 - 0.03 - axis, 0) + np.maximum(axis + half / 2 - 1.03, 0)
        for axis, half in zip((x, y), extent, strict=True)
    )
    usual = 2 * ((x - 0.5) / 0.08) ** 2 + 2 * ((y - 0.48) / 0.1) ** 2
    return 0.01 * (usual + (np.log(aspect / 1.2) / 0.13) ** 2 + ((extent[0] - 0.85) / 0.1) ** 2) + beyond


def _normalised(picture: np.ndarray) -> np.ndarray:
    """Half global, half local contrast: neither exposure nor haze decides."""
    local = picture - smooth(picture, 0.25 * _PIXELS)
    deviation = np.sqrt(smooth(local**2, 0.25 * _PIXELS)) + 0.05 * np.ptp(picture) + 1e-6
    return (local / deviation + (picture - picture.mean()) / (picture.std() + 1e-6)) / 2


def _schema(size: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The lungs' outlines and a schematic chest around them, on a grid over the box grown by a margin."""
    count = round(size * (1 + 2 * margin))
    x, y = np.meshgrid(*[(np.arange(count) + 0.5) / size - margin] * 2, indexing="ij")
    lungs = sum(polygon2mask((count, count), (np.array(outline) + margin) * size - 0.5) for outline in OUTLINES) > 0
    outside = ~lungs
    # Ribs, clavicles and the rounding of the chest brighten the lungs' rim and apex, diaphragm and vessels their base.
    depth = ndimage.distance_transform_edt(np.pad(lungs, 1))[1:-1, 1:-1] / size
    depth = np.clip((depth - 0.02) / 0.1, 0, 1)
    chest = np.where(lungs, -2.4 * depth * np.clip(1.1 - 0.8 * np.abs(y - 0.35), 0, 1) + 0.4, 0.5)
    aside = np.abs(x - 0.5)
    air = 2.6 * np.clip(-y / 0.1, 0, 1) * np.clip(aside / 0.4, 0, 1)
    chest = np.where(outside & (y < 0), 0.4 - air, chest)
    chest = np.where(outside & (aside < 0.1) | (aside < 0.07), 0.1 + 1.8 * np.clip(y, 0, 0.9), chest)
    heart = (y > 0.3) & (y < 0.95) & (x > 0.42 - 0.1 * (y - 0.3)) & (x < 0.52 + 0.5 * (y - 0.3))
    chest = np.where(heart & lungs, np.maximum(chest, 0.8), chest)
    abdomen = outside & (y > 0.8) & (x > 0.02) & (x < 0.98)
    chest = np.where(abdomen, 1.6, chest)
    return ndimage.gaussian_filter(lungs.astype(np.float32), _EDGE * size), ndimage.gaussian_filter(chest, 0.04 * size)


def _place(lungs: np.ndarray, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a map given on the box into a picture."""
    extent = np.maximum(box.high - box.low, 1)
    axes = [
        ((np.arange(count) + 0.5 - low) / side) * grid - 0.5
        for count, low, side, grid in zip(shape, box.low, extent, lungs.shape, strict=True)
    ]
    return ndimage.map_coordinates(lungs, np.meshgrid(*axes, indexing="ij"), order=1, mode="constant")
