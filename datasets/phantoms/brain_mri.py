# SPDX-License-Identifier: Apache-2.0
"""Anatomy of a head in MRI: scalp, skull, folded brain, ventricles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.phantoms.fields import Array, band_noise, bias_field, rician, smooth_field
from datasets.phantoms.shapes import Canvas, Grid, Pose, capsule

FIELD_OF_VIEW = 230.0  # mm
HEAD, BRAIN, VENTRICLES, LESION, CORE, SKULL = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Contrast:
    """Signal of the tissues, relative to fat in T1 at about 1.

    Attributes:
        lesion: signal at level 0 and at level 1 of a lesion.
    """

    fat: float
    skin: float
    muscle: float
    marrow: float
    fluid: float
    grey: float
    white: float
    lesion: tuple[float, float]


T1 = Contrast(fat=0.88, skin=0.5, muscle=0.38, marrow=0.3, fluid=0.13, grey=0.40, white=0.54, lesion=(0.58, 0.92))
T2 = Contrast(fat=0.72, skin=0.4, muscle=0.22, marrow=0.25, fluid=0.90, grey=0.46, white=0.34, lesion=(0.54, 0.84))


def head_grid(spatial_dims: int, size: tuple[int, ...], rng: np.random.Generator) -> Grid:
    """Grid of a whole head, or of one axial slice at the level of the lateral ventricles."""
    spacing = tuple(FIELD_OF_VIEW / n for n in size)
    if spatial_dims == 2:
        return Grid((*size, 1), (*spacing, 5.0), (0.0, 0.0, rng.uniform(0.0, 24.0)))  # type: ignore[arg-type]
    return Grid(size, spacing, (0.0, 0.0, -14.0))  # type: ignore[arg-type]


def _brain_surface(canvas: Canvas) -> Array:
    """Signed distance to the surface of the cerebrum: an egg, flat below, narrower in front."""
    x, y, z = canvas.atlas
    flat = np.where(z < 0, z * np.float32(62 / 46), z)
    narrow = x * (1 + np.float32(0.0012) * y)
    scaled = np.sqrt((narrow / 67) ** 2 + (y / 85) ** 2 + (flat / 62) ** 2)
    return ((scaled - 1) * 70).astype(np.float32)


def _paint_face(canvas: Canvas, contrast: Contrast) -> None:
    neck = capsule(canvas.atlas, np.array([0, -22, -60]), np.array([0, -30, -190]), 54)
    face = canvas.ellipsoid((0, 42, -72), (56, 54, 70))
    nape = canvas.ellipsoid((0, -32, -50), (68, 60, 46))
    soft = np.minimum(np.minimum(neck, face), nape)
    canvas.paint(soft, contrast.fat * 0.85, HEAD)
    canvas.paint(soft + 7, contrast.muscle, HEAD)
    canvas.paint(canvas.ellipsoid((0, 62, -62), (17, 26, 26)), 0.03)
    canvas.paint(capsule(canvas.atlas, np.array([0, 10, -80]), np.array([0, 2, -180]), 9), 0.03)
    canvas.paint(canvas.ellipsoid((0, -48, -120), (16, 16, 70)), contrast.marrow)
    for side in (-1, 1):
        canvas.paint(canvas.ellipsoid((side * 31, 66, -36), (19, 18, 17)), contrast.fat * 0.9)
        canvas.paint(canvas.ellipsoid((side * 31, 72, -36), (12.5, 12.5, 12.5)), 0.6 * contrast.fluid + 0.1)


def _paint_scalp(canvas: Canvas, contrast: Contrast, bone: Array) -> None:
    canvas.paint(bone - 10, contrast.skin, HEAD)
    canvas.paint(bone - 7.5, contrast.fat, HEAD)


def _paint_skull(canvas: Canvas, contrast: Contrast, bone: Array, surface: Array, thick: float) -> None:
    """Skull with marrow, and the fluid around the brain, as shells."""
    canvas.paint(bone, 0.05, SKULL)
    canvas.paint(np.abs(bone + 0.5 * thick - 2.5) - 1.3, contrast.marrow)
    canvas.paint(surface - 2.2, contrast.fluid, HEAD)


def _paint_cortex(canvas: Canvas, contrast: Contrast, surface: Array, rng: np.random.Generator) -> None:
    """Brain with folds: sulci run along the zero level of band-pass noise and fade with depth."""
    sigma = [max(4.2 / s, 0.8) if n > 1 else 0.0 for s, n in zip(canvas.grid.spacing, canvas.grid.size, strict=True)]
    ridge = np.abs(band_noise(rng, canvas.grid.size, sigma))
    near = np.clip(1.15 + surface / 24, 0, 1)
    grey = np.clip((0.75 * near - ridge) / 0.3 + 0.5, 0, 1) * (near > 0)
    grey = np.maximum(grey, np.clip(1 + (surface + 3) / 3, 0, 1))
    sulcus = np.clip((0.26 * near - ridge) / 0.2 + 0.3, 0, 1) * (near > 0.15)
    middle = np.clip(1.6 - np.abs(canvas.atlas[0]) / 1.5, 0, 1) * (near > 0.2)
    tissue = contrast.white + grey * (contrast.grey - contrast.white)
    tissue = tissue + np.maximum(sulcus, 0.8 * middle) * 0.8 * (contrast.fluid - tissue)
    canvas.paint(surface, tissue, BRAIN)


def _hindbrain(canvas: Canvas) -> Array:
    return np.minimum(*(canvas.ellipsoid((side * 20, -44, -44), (29, 26, 21)) for side in (-1, 1)))


def _paint_hindbrain(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    cerebellum = _hindbrain(canvas)
    leaves = 0.5 + 0.5 * np.sin(canvas.atlas[2] * 1.1 + rng.uniform(0, 6))
    canvas.paint(cerebellum - 3, contrast.fluid)
    canvas.paint(cerebellum, contrast.grey + 0.5 * leaves * (contrast.white - contrast.grey), BRAIN)
    stem = capsule(canvas.atlas, np.array([0, -14, -25]), np.array([0, -30, -95]), 12)
    canvas.paint(stem, contrast.white * 0.95, BRAIN)
    canvas.paint(capsule(canvas.atlas, np.array([0, -32, -95]), np.array([0, -36, -180]), 6), contrast.white * 0.9)


def _paint_deep(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """Deep grey matter and ventricles; the two sides differ in size."""
    x, y, z = canvas.atlas
    for side in (-1, 1):
        canvas.paint(canvas.ellipsoid((side * 12, -10, 2), (9, 15, 11)), contrast.grey)
        canvas.paint(canvas.ellipsoid((side * 26, 6, 4), (7, 18, 11)), contrast.grey)
    width = rng.uniform(4.5, 8.5)
    for side in (-1, 1):
        wide = width * rng.uniform(0.85, 1.2)
        bent = side * x - (2.5 + wide + 0.0055 * (y - 6) ** 2)
        arched = z - 12 + 0.004 * (y + 5) ** 2
        lateral = np.sqrt((bent / wide) ** 2 + ((y + 6) / 44) ** 2 + (arched / (1.7 * wide)) ** 2)
        canvas.paint((lateral - 1) * wide, contrast.fluid, VENTRICLES)
    canvas.paint(canvas.ellipsoid((0, -6, -4), (2.2, 14, 13)), contrast.fluid, VENTRICLES)
    canvas.paint(canvas.ellipsoid((0, -36, -42), (7, 5, 9)), contrast.fluid, VENTRICLES)


def paint_head(rng: np.random.Generator, grid: Grid) -> tuple[Canvas, Contrast, Array]:
    """Paint one head.

    Args:
        rng: source of the patient and of the sequence (T1- or T2-like).
        grid: where to paint.

    Returns:
        The canvas, its contrast, and the cerebrum as bool array of the grid's size.
    """
    pose = Pose.draw(rng, (3.0, 3.0, 6.0), shift=7.0, scale=0.06)
    canvas = Canvas.blank(rng, grid, pose, warp=4.5)
    contrast = T1 if rng.uniform() < 0.65 else T2
    cerebrum = _brain_surface(canvas)
    whole_head = grid.size[2] > 1
    surface = np.minimum(cerebrum, _hindbrain(canvas)) if whole_head else cerebrum
    thick = rng.uniform(7.0, 9.5)
    bone = surface - thick - 2.2 * smooth_field(rng, grid.size, knots=7)
    _paint_scalp(canvas, contrast, bone)
    if whole_head:
        _paint_face(canvas, contrast)
    _paint_skull(canvas, contrast, bone, surface, thick)
    if whole_head:
        _paint_hindbrain(canvas, contrast, rng)
    _paint_cortex(canvas, contrast, cerebrum, rng)
    _paint_deep(canvas, contrast, rng)
    return canvas, contrast, cerebrum < 0


def scan_head(rng: np.random.Generator, signal: Array) -> Array:
    """MR scanner: coil field and Rician noise; returns signal around 0 to 1."""
    received = signal * bias_field(rng, signal.shape, rng.uniform(0.1, 0.4))
    return rician(rng, received, rng.uniform(0.015, 0.035))
