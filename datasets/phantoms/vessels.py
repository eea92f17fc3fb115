# SPDX-License-Identifier: Apache-2.0
"""Branching vessels of the lungs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datasets.phantoms.fields import Array
from datasets.phantoms.shapes import Canvas, Grid

THINNEST = 1.15  # mm: thinner branches are neither grown nor seen
# from the hilum to the segments of a lung: outwards, to the front, to the head
_AIMS = np.array(
    [
        (0.3, 0.2, 1.0),
        (0.8, 0.8, 0.4),
        (1.0, -0.2, 0.3),
        (0.8, -0.8, 0.0),
        (0.9, 0.4, -0.2),
        (0.7, 0.5, -0.7),
        (0.4, -0.5, -1.0),
    ]
)


class Branches(NamedTuple):
    """Vessels of one generation: starts, ends `[N, 3]` and radii `[N]`, all in atlas millimetres."""

    start: Array
    end: Array
    radius: Array


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def grow_trees(rng: np.random.Generator, side: int) -> Iterator[Branches]:
    """Grow the vessels of one lung, generation by generation: every branch splits in two until it is thin.

    The radii follow Murray's law for even splits, `r_child = r_parent / 2^(1/3)`, with some spread.

    Args:
        rng: source of lengths, turns and radii.
        side: 1 for the patient's right lung, -1 for the left one.

    Yields:
        The branches of one generation, the thickest first.
    """
    heading = _unit(_AIMS * (side, 1, 1) + 0.2 * rng.standard_normal(_AIMS.shape))
    start = np.tile((side * 36.0, -6.0, 6.0), (len(heading), 1))
    radius, length = rng.uniform(3.6, 5.0, len(heading)), 27.0
    while len(start):
        end = start + heading * (length * rng.uniform(0.75, 1.25, len(start)))[:, None]
        yield Branches(start, end, radius)
        turn = rng.standard_normal(heading.shape)
        turn = _unit(turn - heading * (turn * heading).sum(1, keepdims=True))
        bend = np.repeat(turn, 2, axis=0) * np.tile([1, -1], len(turn))[:, None]
        heading = _unit(np.repeat(heading, 2, axis=0) + bend * rng.uniform(0.35, 0.75, (2 * len(turn), 1)))
        radius = np.repeat(radius, 2) * rng.uniform(0.72, 0.84, 2 * len(radius))
        thick = radius > THINNEST
        start, heading, radius = np.repeat(end, 2, axis=0)[thick], heading[thick], radius[thick]
        length *= 0.82


def _beads(branches: Branches, step: float) -> tuple[Array, Array]:
    """Points `[M, 3]` along the branches, at most `step` mm apart, and their radii `[M]`."""
    length = np.linalg.norm(branches.end - branches.start, axis=1).max()
    along = np.linspace(0, 1, max(2, int(np.ceil(length / step))))[:, None, None]
    points = branches.start + along * (branches.end - branches.start)
    return points.reshape(-1, 3), np.tile(branches.radius, len(along))


def _stamp(occupancy: Array, grid: Grid, points: Array, radii: Array) -> None:
    """Raise `occupancy` to that of balls at `points` (world millimetres)."""
    spacing, size = np.array(grid.spacing), np.array(grid.size)
    place = (points - [grid.ticks(axis)[0] for axis in range(3)]) / spacing
    near = ((place > -1 - radii[:, None] / spacing) & (place < size + radii[:, None] / spacing)).all(1)
    place, radii = place[near], radii[near]
    if not len(place):
        return
    squares = np.zeros((1, 1, 1, 1), np.float32)
    indices = np.zeros((1, 1, 1, 1), np.int64)
    for axis, reach in enumerate(np.ceil(radii.max() / spacing + 0.5).astype(int)):
        window = np.arange(-reach, reach + 1) if size[axis] > 1 else np.zeros(1, int)
        voxel = (np.rint(place[:, axis, None]).astype(int) if size[axis] > 1 else 0) + window
        # a voxel longer than the finest one is met anywhere along its length
        gap = np.abs(voxel - place[:, axis, None]) * spacing[axis] - (spacing[axis] - grid.voxel) / 2
        gap = np.where((voxel >= 0) & (voxel < size[axis]), np.maximum(gap, 0), np.inf)
        along = (len(place), *(-1 if axis == k else 1 for k in range(3)))
        squares = squares + (gap * gap).astype(np.float32).reshape(along)
        indices = indices * size[axis] + np.broadcast_to(voxel, gap.shape).reshape(along)
    share = np.minimum(1, 2 * radii / spacing.max())  # a thin vessel fills a thick voxel partly
    column = radii.astype(np.float32).reshape(-1, 1, 1, 1)
    part = np.clip(0.5 - (np.sqrt(squares) - column) / np.float32(grid.voxel), 0, 1) * share.reshape(-1, 1, 1, 1)
    inside = part > 0
    np.maximum.at(occupancy.reshape(-1), indices[inside], part[inside].astype(np.float32))


def paint_vessels(
    canvas: Canvas, rng: np.random.Generator, lungs: tuple[int, int] = (2, 3), value: float = 40.0
) -> None:
    """Paint vessels into both lungs; they never leave them.

    Args:
        canvas: holds the codes of the right and the left lung; vessels get those codes plus 2.
        rng: source of the trees.
        lungs: codes of the right and of the left lung.
        value: Hounsfield units of blood.
    """
    occupancy = np.zeros(canvas.grid.size, np.float32)
    for side in (1, -1):
        for branches in grow_trees(rng, side):
            points, radii = _beads(branches, 0.6 * canvas.grid.voxel)
            _stamp(occupancy, canvas.grid, canvas.pose.to_world(points), radii)
    inside = np.isin(canvas.codes, lungs)
    canvas.image += np.where(inside, occupancy, 0) * (value - canvas.image)
    canvas.codes[inside & (occupancy >= 0.5)] += 2
