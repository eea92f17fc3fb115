# SPDX-License-Identifier: Apache-2.0
"""From a coarse map to what SAM takes as a prompt: boxes around its components, points in and beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[float, float, float, float]
Point = tuple[float, float]
POSITIVE, NEGATIVE, NO_POINT = 1, 0, -10  # how SAM labels points


def components(probabilities: np.ndarray, threshold: float, min_size: float, max_components: int) -> list[np.ndarray]:
    """Return the connected components (8 neighbours) of a thresholded map, the largest first.

    Args:
        probabilities: ``[H, W]``.
        threshold: probability from which a pixel counts, where it is not zero.
        min_size: components with a smaller share of the largest one's pixels are dropped.
        max_components: no more than the largest so many are kept.

    Returns:
        Masks, bool ``[H, W]``; none if no pixel counts.
    """
    labels, count = ndimage.label((probabilities >= threshold) & (probabilities > 0), structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:max_components]
    return [labels == index + 1 for index in order if sizes[index] >= min_size * sizes.max()]


def box_around(component: np.ndarray, margin: float) -> Box:
    """Return left, top, right, bottom of a component in pixels (pixel ``i`` reaches from ``i`` to ``i + 1``).

    Args:
        component: bool ``[H, W]`` with at least one pixel.
        margin: share of the box's sides that is added on each side, as far as the picture reaches.
    """
    height, width = component.shape
    rows, columns = np.flatnonzero(component.any(axis=1)), np.flatnonzero(component.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    beside, above = margin * (right - left), margin * (bottom - top)
    return (
        float(max(left - beside, 0)),
        float(max(top - above, 0)),
        float(min(right + beside, width)),
        float(min(bottom + above, height)),
    )


def peak(component: np.ndarray, probabilities: np.ndarray) -> Point:
    """Return x and y of the map's maximum within a component; of equal ones, that deepest inside it."""
    inside = np.where(component, probabilities, -1)
    highest = inside >= inside.max()
    depth = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(np.where(highest, depth, -1)), component.shape)
    return float(column), float(row)


def points_beside(component: np.ndarray, probabilities: np.ndarray, threshold: float) -> list[Point]:
    """Return points that are not of a component: as far outside the middle of each side of its box as to its centre.

    Those outside the picture, or where the map reaches the threshold, are left out.
    """
    left, top, right, bottom = box_around(component, 0.5)
    whole = box_around(component, 0)
    x, y = (whole[0] + whole[2] - 1) / 2, (whole[1] + whole[3] - 1) / 2
    candidates = ((left - 1, y), (right, y), (x, top - 1), (x, bottom))
    height, width = component.shape
    return [
        (column, row)
        for column, row in candidates
        if 0 <= column < width and 0 <= row < height and probabilities[int(row), int(column)] < threshold
    ]


def pad_points(positive: Sequence[Point], negative: Sequence[Sequence[Point]]) -> tuple[np.ndarray, np.ndarray]:
    """Arrange the points of ``K`` components in arrays of one length.

    Returns:
        Coordinates ``[K, M, 2]`` float32 and labels ``[K, M]`` int64; labels of missing points are ``NO_POINT``.
    """
    longest = 1 + max(len(points) for points in negative)
    places = np.zeros((len(positive), longest, 2), dtype=np.float32)
    labels = np.full((len(positive), longest), NO_POINT, dtype=np.int64)
    for index, (point, others) in enumerate(zip(positive, negative, strict=True)):
        known = [point, *others]
        places[index, : len(known)] = known
        labels[index, : len(known)] = [POSITIVE, *[NEGATIVE] * len(others)]
    return places, labels
