# SPDX-License-Identifier: Apache-2.0
"""The brain on a coarse grid, in units of its own level and size: where lesions are sought."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from custom.localizers.operators.brain import brain
from custom.localizers.operators.scan import Scan, dilated, smooth

GRID = {2: 128, 3: 56}  # longest side of the coarse grid in voxels


@dataclass
class Coarse:
    """Grey levels relative to the brain (0 = darkest of the picture, 1 = the brain's median) on a coarse grid.

    - ``level``: clipped to [0, 3].
    - ``inside``: the brain; ``weight``: the brain and a thin rim: what filters may look at, so that the bright skull
      does not leak in.
    - ``diameter``: of the disc or ball of the brain's size, in coarse voxels; all scales are shares of it.
    - ``centre``: centre of mass of the brain, in coarse voxels.
    - ``shape``: of the scan.
    """

    level: np.ndarray
    inside: np.ndarray
    shape: tuple[int, ...]
    diameter: float = 0.0
    centre: tuple[float, ...] = ()
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        dims, size = self.inside.ndim, float(self.inside.sum())
        self.diameter = 2 * (size / np.pi) ** 0.5 if dims == 2 else 2 * (size * 3 / (4 * np.pi)) ** (1 / 3)
        self.centre = tuple(float(each) for each in ndimage.center_of_mass(self.inside))
        self.weight = smooth(dilated(self.inside, 0.04 * self.diameter), 0.5)

    def blurred(self, scale: float, values: np.ndarray | None = None) -> np.ndarray:
        """Gaussian mean of the level (or of other values) over the brain, sigma in diameters."""
        sigma = scale * self.diameter
        values = self.level if values is None else values
        return smooth(values * self.weight, sigma) / (smooth(self.weight, sigma) + 1e-3)

    def position(self, axis: int) -> np.ndarray:
        """Distance from the brain's centre along an axis, in radii; broadcasts to the grid."""
        line = (np.arange(self.inside.shape[axis]) - self.centre[axis]) / (self.diameter / 2)
        return line.reshape([-1 if each == axis else 1 for each in range(self.inside.ndim)])

    def fine(self, values: np.ndarray) -> np.ndarray:
        """Interpolate values of the coarse grid to the scan's grid."""
        scale = [small / large for small, large in zip(values.shape, self.shape, strict=True)]
        offset = [(each - 1) / 2 for each in scale]
        return ndimage.affine_transform(values, scale, offset, output_shape=self.shape, order=1, mode="nearest")


def coarse_brain(scan: Scan) -> Coarse | None:
    """Return the coarse view of a scan's brain, shared between operators; None if there is no brain."""
    return scan.once("coarse_brain", lambda: _coarse_brain(scan))


def _coarse_brain(scan: Scan) -> Coarse | None:
    inside = brain(scan) > 0.5
    if inside.sum() < 3**inside.ndim:
        return None
    darkest = float(np.percentile(scan.values, 1))
    median = float(np.median(scan.values[inside]))
    if median <= darkest:
        return None
    level = np.clip((scan.values - darkest) / (median - darkest), 0, 3)
    factor = max(1, round(max(level.shape) / GRID[level.ndim]))
    return Coarse(_shrunk(level, factor), _shrunk(inside.astype(np.float32), factor) > 0.5, level.shape)


def _shrunk(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks; the border is repeated to fill the last blocks."""
    if factor == 1:
        return values.astype(np.float32)
    padded = np.pad(values, [(0, -size % factor) for size in values.shape], mode="edge")
    blocks = padded.reshape([part for size in padded.shape for part in (size // factor, factor)])
    return blocks.mean(axis=tuple(range(1, blocks.ndim, 2))).astype(np.float32)
