# SPDX-License-Identifier: Apache-2.0
"""The patient's frame and the implicit shapes that anatomy is built of, in millimetres and RAS+."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.phantoms.fields import Array, smooth_field

Point = Sequence[float]


@dataclass(frozen=True)
class Grid:
    """Regular voxel grid; a 2D slice is a grid with one voxel along the last axis.

    Attributes:
        size: voxels along x (to the right), y (to the front), z (to the head).
        spacing: millimetres a voxel.
        center: millimetres, where the middle of the grid lies in the patient.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def ticks(self, axis: int) -> Array:
        """Millimetres of the voxel centres along `axis`."""
        steps = np.arange(self.size[axis]) - (self.size[axis] - 1) / 2
        return (self.center[axis] + self.spacing[axis] * steps).astype(np.float32)

    @property
    def voxel(self) -> float:
        """Finest spacing in millimetres: the width of a soft edge."""
        return min(self.spacing)


@dataclass(frozen=True)
class Pose:
    """How one patient differs from the atlas: size, rotation and shift.

    Attributes:
        rotation: orthogonal [3, 3].
        scale: [3] factors on the atlas.
        shift: [3] millimetres.
    """

    rotation: Array
    scale: Array
    shift: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, degrees: Point, shift: float, scale: float) -> Pose:
        """Draw rotations (standard deviations about x, y, z), a shift and factors of size."""
        rotation = np.eye(3)
        for axis, angle in enumerate(np.deg2rad(degrees) * rng.uniform(-1.7, 1.7, 3)):
            turn = np.eye(3)
            i, j = [k for k in range(3) if k != axis]
            turn[i, i] = turn[j, j] = np.cos(angle)
            turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
        common = rng.uniform(1 - scale, 1 + scale)
        return cls(rotation, common * rng.uniform(0.96, 1.04, 3), rng.uniform(-shift, shift, 3))

    def to_world(self, point: Array) -> Array:
        """Atlas millimetres `[..., 3]` to scanner millimetres `[..., 3]`."""
        return (np.asarray(point) * self.scale) @ self.rotation.T + self.shift


@dataclass
class Canvas:
    """What is painted on: intensities and codes on a grid, with the atlas coordinates of every voxel.

    Attributes:
        grid: the voxel grid.
        pose: the patient's pose.
        atlas: x, y, z of the atlas at each voxel, millimetres, each of the grid's size.
        image: float32 intensities.
        codes: uint8 codes of the innermost structure.
    """

    grid: Grid
    pose: Pose
    atlas: list[Array]
    image: Array
    codes: Array = field(repr=False)

    @classmethod
    def blank(cls, rng: np.random.Generator, grid: Grid, pose: Pose, warp: float, background: float = 0.0) -> Canvas:
        """An empty canvas whose atlas coordinates are posed and smoothly deformed by about `warp` millimetres."""
        axes = np.meshgrid(*(grid.ticks(a) - np.float32(pose.shift[a]) for a in range(3)), indexing="ij", sparse=True)
        atlas = []
        for axis in range(3):
            turned = sum(axes[k] * np.float32(pose.rotation[k, axis]) for k in range(3))
            atlas.append(turned / np.float32(pose.scale[axis]) + np.float32(warp) * smooth_field(rng, grid.size))
        return cls(grid, pose, atlas, np.full(grid.size, background, np.float32), np.zeros(grid.size, np.uint8))

    def band(self, low: float, high: float) -> Canvas:
        """The part of this canvas between two x of the scanner (millimetres); painting it paints this one."""
        ticks = self.grid.ticks(0)
        first, last = np.searchsorted(ticks, (low, high))
        part = slice(int(first), max(int(last), int(first) + 1))
        middle = float(ticks[part].mean())
        size = (len(ticks[part]), *self.grid.size[1:])
        grid = Grid(size, self.grid.spacing, (middle, *self.grid.center[1:]))
        return Canvas(grid, self.pose, [a[part] for a in self.atlas], self.image[part], self.codes[part])

    def soft(self, distance: Array) -> Array:
        """Occupancy in [0, 1] from a signed distance in millimetres (negative inside): one voxel of soft edge."""
        return np.clip(0.5 - distance / self.grid.voxel, 0, 1)

    def paint(self, distance: Array, value: float | Array, code: int | None = None) -> None:
        """Lay a structure over the image; its code replaces what was there unless `code` is None."""
        part = self.soft(distance)
        self.image += part * (value - self.image)
        if code is not None:
            self.codes[part >= 0.5] = code

    def ellipsoid(self, center: Point, radii: Point) -> Array:
        """Signed distance to an ellipsoid in the atlas, see `ellipsoid`."""
        return ellipsoid(self.atlas, center, radii)


def ellipsoid(points: Sequence[Array], center: Point, radii: Point, power: float = 2.0) -> Array:
    """Approximate signed distance to a (super-)ellipsoid: exact on its surface, scaled by the smallest radius.

    Args:
        points: coordinate arrays, one an axis, millimetres.
        center: middle, millimetres.
        radii: half axes, millimetres.
        power: 2 is an ellipsoid, larger is boxier.

    Returns:
        float32 array, negative inside.
    """
    scaled = [(p - np.float32(c)) / np.float32(r) for p, c, r in zip(points, center, radii, strict=True)]
    if power == 2:  # many times faster than the general power
        reach = np.sqrt(sum(s * s for s in scaled))
    else:
        reach = np.asarray(sum(np.abs(s) ** np.float32(power) for s in scaled)) ** np.float32(1 / power)
    return (reach - 1) * np.float32(min(radii))


def capsule(points: Sequence[Array], start: Array, end: Array, radius: float) -> Array:
    """Signed distance to a rod with round ends between two points, millimetres."""
    direction = np.asarray(end, np.float32) - np.asarray(start, np.float32)
    offset = [p - np.float32(s) for p, s in zip(points, start, strict=True)]
    along = sum(o * d for o, d in zip(offset, direction, strict=True)) / max(float(direction @ direction), 1e-6)
    along = np.clip(along, 0, 1)
    return np.sqrt(sum((o - along * d) ** 2 for o, d in zip(offset, direction, strict=True))) - np.float32(radius)
