# SPDX-License-Identifier: Apache-2.0
"""Where a synthetic lesion lies and how it is shaped: an ellipsoid with an uneven outline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

REACH = 1.9  # half side of the box around a lesion, in radii: axes, waves and the blurred border have room


@dataclass(frozen=True)
class Outline:
    """A lesion's outline in a box of the scan.

    - ``box``: slices of the scan.
    - ``centre``: in voxels of the scan; ``radius``: of the disc or ball of its size, in voxels.
    - ``offset``: voxels from the centre, ``[dims, *box]``.
    - ``depth``: about the distance to the outline in voxels, positive inside, ``[*box]``.
    - ``soft``: opacity in [0, 1] with a blurred border, 0 outside the search area; ``within``: that area, ``[*box]`` in
      [0, 1]; ``edge``: width of the blurred border in voxels.
    """

    box: tuple[slice, ...]
    centre: tuple[int, ...]
    radius: float
    offset: np.ndarray
    depth: np.ndarray
    soft: np.ndarray
    within: np.ndarray
    edge: float

    @property
    def inside(self) -> np.ndarray:
        """Boolean mask ``[*box]``: opacity above one half."""
        return self.soft > 0.5

    def inner(self, distance: float) -> np.ndarray:
        """Opacity of what lies deeper than a distance (negative: of a seam around the lesion, too)."""
        return blurred_step(self.depth - distance, self.edge) * self.within


def draw_outline(
    random: np.random.RandomState,
    area: np.ndarray,
    size: tuple[float, float],
    irregularity: float,
    edge: tuple[float, float],
) -> Outline | None:
    """Draw an outline.

    The centre is drawn where there is room: with a probability that grows with the distance from the search area's
    border, up to the lesion's own radius.

    Args:
        random: source of all draws.
        area: search area, boolean ``[*spatial]``.
        size: least and largest share of the picture, drawn uniformly on a logarithmic scale.
        irregularity: largest amplitude of the outline's waves, in radii.
        edge: least and largest width of the blurred border in voxels, likewise logarithmic.

    Returns:
        The outline; None if the search area is empty.
    """
    dims, radius = area.ndim, _radius(log_uniform(random, size) * area.size, area.ndim)
    centre = _draw_centre(random, area, radius)
    if centre is None:
        return None
    radii = np.exp(random.uniform(-0.35, 0.35, dims))
    radii *= radius / np.exp(np.log(radii).mean())
    reach = int(np.ceil(REACH * radii.max())) + 2
    box = tuple(
        slice(max(0, at - reach), min(side, at + reach + 1)) for at, side in zip(centre, area.shape, strict=True)
    )
    offset = np.stack(
        np.meshgrid(*(np.arange(s.start, s.stop) - at for s, at in zip(box, centre, strict=True)), indexing="ij")
    )
    turn = np.linalg.qr(random.normal(size=(dims, dims)))[0]
    along = np.tensordot(turn, offset, axes=1) / radii.reshape(-1, *[1] * dims)
    waves = random.uniform(0, irregularity) * smooth_noise(random, offset.shape[1:], random.uniform(2.5, 6))
    depth = (1 - np.sqrt((along**2).sum(axis=0)) - waves) * radius
    width = log_uniform(random, edge)
    within = ndimage.gaussian_filter(area[box].astype(np.float32), 0.7, mode="nearest")
    soft = blurred_step(depth, width) * within
    return Outline(box, centre, radius, offset.astype(np.float32), depth.astype(np.float32), soft, within, width)


def smooth_noise(random: np.random.RandomState, shape: tuple[int, ...], cells: float) -> np.ndarray:
    """Gaussian noise on about ``cells`` cells a side, interpolated linearly to ``shape``; float32, spread below 1."""
    coarse = random.normal(size=[max(2, round(cells)) + 1] * len(shape)).astype(np.float32)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return functional.interpolate(torch.from_numpy(coarse)[None, None], shape, mode=mode, align_corners=True)[
        0, 0
    ].numpy()


def blurred_step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 below and 1 above zero, with a logistic transition of about ``width``."""
    return (1 / (1 + np.exp(-np.clip(2 * distance / width, -20, 20)))).astype(np.float32)


def log_uniform(random: np.random.RandomState, limits: tuple[float, float]) -> float:
    """Draw uniformly on a logarithmic scale."""
    return float(np.exp(random.uniform(*np.log(limits))))


def _radius(size: float, dims: int) -> float:
    return float((size / np.pi) ** 0.5 if dims == 2 else (size * 3 / (4 * np.pi)) ** (1 / 3))


def _draw_centre(random: np.random.RandomState, area: np.ndarray, radius: float) -> tuple[int, ...] | None:
    room = np.minimum(ndimage.distance_transform_edt(np.pad(area, 1))[tuple([slice(1, -1)] * area.ndim)], radius) ** 1.5
    total = np.cumsum(room.ravel())
    if total[-1] <= 0:
        return None
    at = min(int(np.searchsorted(total, random.uniform() * total[-1])), total.size - 1)
    return tuple(int(index) for index in np.unravel_index(at, area.shape))
