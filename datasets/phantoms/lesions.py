# SPDX-License-Identifier: Apache-2.0
"""Lesions whose class lies in outline and layout, never in size or grey level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from datasets.phantoms.fields import Array

DARK_SHARE = 0.35  # share of a lesion's voxels that are darker, whatever its class


@dataclass(frozen=True)
class Outline:
    """Outline and layout of one class of lesions.

    Attributes:
        spikes: rays of the outline; 0 gives a nearly round one.
        sharpness: concentration of a ray, larger is thinner.
        length: length of the rays relative to the body of the lesion.
        ring: dark inside a bright ring rather than bright inside a dim border.
    """

    spikes: int = 0
    sharpness: float = 0.0
    length: float = 0.0
    ring: bool = False


@dataclass(frozen=True)
class Lesion:
    """A lesion on a grid.

    Attributes:
        mask: bool, the whole lesion.
        core: bool, the dark inside of a ring; empty in other classes.
        level: float32 in [0, 1] inside the mask: 0 dark, 1 bright; the sorted values depend on the mask's size only.
    """

    mask: Array
    core: Array
    level: Array


def _directions(rng: np.random.Generator, count: int, dims: int) -> Array:
    """Unit vectors [count, dims] that spread well: evenly turned in 2D, the best of many draws in 3D."""
    if dims == 2:
        angles = 2 * np.pi * (np.arange(count) + rng.uniform(0, 1) + rng.uniform(-0.32, 0.32, count)) / count
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    draws = rng.standard_normal((count * 12, 3))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    chosen = [0]
    for _ in range(count - 1):
        chosen.append(int(np.argmin((draws @ draws[chosen].T).max(1))))
    return draws[chosen]


def _radius(rng: np.random.Generator, unit: Array, outline: Outline) -> Array:
    """Relative radius of the outline along unit vectors [N, dims]."""
    dims = unit.shape[1]
    reach = 1 + 0.06 * np.exp(3 * (unit @ _directions(rng, 3, dims).T - 1)).sum(1)
    if outline.spikes:
        count = outline.spikes if dims == 2 else int(1.7 * outline.spikes)
        rays = np.exp(outline.sharpness * (unit @ _directions(rng, count, dims).T - 1))
        reach = reach + outline.length * (rays * rng.uniform(0.35, 1.35, count)).max(1)
    return reach


def _levels(count: int) -> Array:
    """Sorted levels: a dark share, a short ramp and a bright rest."""
    rank = (np.arange(count) + 0.5) / count
    ramp = np.clip((rank - DARK_SHARE) / 0.15 + 0.5, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def draw_lesion(
    rng: np.random.Generator,
    outline: Outline,
    points: Sequence[Array],
    allowed: Array,
    center: Sequence[float],
    count: int,
) -> Lesion:
    """Draw a lesion of exactly `count` voxels (fewer only where `allowed` is smaller).

    The voxels nearest to the centre, measured in units of the outline's radius, form the mask, and one fixed
    sequence of levels is dealt out to them. Classes therefore agree in area and in grey levels by construction.

    Args:
        rng: source of the outline.
        outline: the class.
        points: coordinate arrays, one an axis, millimetres, each `[*spatial]`.
        allowed: bool `[*spatial]`, where the lesion may lie.
        center: millimetres.
        count: voxels of the lesion.

    Returns:
        The lesion on the grid of `points`.
    """
    where = np.flatnonzero(allowed)
    offset = np.stack([p.ravel()[where] - c for p, c in zip(points, center, strict=True)], 1)
    axis = _directions(rng, 1, len(points))[0]
    offset = offset + (rng.uniform(1.0, 1.25) - 1) * (offset @ axis)[:, None] * axis
    distance = np.linalg.norm(offset, axis=1)
    depth = distance / _radius(rng, offset / np.maximum(distance, 1e-6)[:, None], outline)
    count = min(count, len(where))
    nearest = np.argsort(depth, kind="stable")[:count]
    where, depth = where[nearest], depth[nearest] / max(float(depth[nearest[-1]]), 1e-6)

    speckle = ndimage.gaussian_filter(rng.standard_normal(allowed.shape), 0.7).ravel()[where]
    speckle = speckle / max(float(speckle.std()), 1e-6)
    order = np.argsort((depth if outline.ring else -depth) + 0.12 * speckle, kind="stable")
    flat = np.zeros((3, allowed.size), np.float32)
    flat[0, where] = 1
    flat[1, where[order]] = _levels(count)
    flat[2, where[order[: int(DARK_SHARE * count)]]] = outline.ring
    mask, level, core = flat.reshape(3, *allowed.shape)
    return Lesion(mask > 0, core > 0, level)


def place_lesion(rng: np.random.Generator, allowed: Array, spacing: Sequence[float], margin: float) -> tuple[int, ...]:
    """Voxel index of a lesion's centre, uniform over the voxels that lie `margin` mm inside `allowed`.

    Where the organ is too thin for the margin, the deepest voxels are used.
    """
    # padding: the picture's border is an edge of the organ too, or lesions would be cut off by it
    depth = ndimage.distance_transform_edt(np.pad(allowed, 1), sampling=spacing)
    depth = depth[tuple(slice(1, -1) for _ in spacing)]
    candidates = np.argwhere(depth >= min(margin, 0.8 * float(depth.max())))
    return tuple(int(i) for i in candidates[rng.integers(len(candidates))])
