# SPDX-License-Identifier: Apache-2.0
"""Anatomy of a chest in Hounsfield units: body, bones, mediastinum, lungs and their vessels."""

from __future__ import annotations

import numpy as np

from datasets.phantoms.fields import Array, point_spread, smooth_field
from datasets.phantoms.shapes import Canvas, Grid, Pose, capsule, ellipsoid
from datasets.phantoms.vessels import paint_vessels

FIELD_OF_VIEW = 350.0  # mm
AIR, FAT, SOFT, LUNG = -1000.0, -100.0, 45.0, -850.0
BODY, RIGHT_LUNG, LEFT_LUNG, RIGHT_VESSELS, LEFT_VESSELS = 1, 2, 3, 4, 5
RIGHT_NODULE, LEFT_NODULE, RIGHT_CORE, LEFT_CORE, BONE, MEDIASTINUM = 6, 7, 8, 9, 10, 11


def chest_grid(spatial_dims: int, size: tuple[int, ...], rng: np.random.Generator) -> Grid:
    """Grid of a whole chest, or of one axial slice between the aortic arch and the heart."""
    spacing = tuple(FIELD_OF_VIEW / n for n in size)
    if spatial_dims == 2:
        return Grid((*size, 1), (*spacing, 5.0), (0.0, 0.0, rng.uniform(-25.0, 45.0)))  # type: ignore[arg-type]
    return Grid(size, spacing, (0.0, 0.0, -15.0))  # type: ignore[arg-type]


def _rod(canvas: Canvas, start: tuple[float, ...], end: tuple[float, ...], radius: float) -> Array:
    return capsule(canvas.atlas, np.asarray(start), np.asarray(end), radius)


def _thorax(canvas: Canvas) -> Array:
    """Signed distance to the rib cage: an egg with its narrow end at the neck."""
    return ellipsoid(canvas.atlas, (0, 0, -50), (132, 92, 195), power=2.3)


def _paint_body(canvas: Canvas, thorax: Array, rng: np.random.Generator) -> None:
    """Skin, fat, muscle around the rib cage; shoulders and neck above."""
    fat = rng.uniform(6.0, 20.0)
    x, y, z = canvas.atlas
    trunk = np.maximum(ellipsoid((x, y), (0, -2), (146, 106), power=2.5), 0.9 * (z - 172 + 0.4 * np.abs(x)))
    if canvas.grid.size[2] > 1:
        shoulders = ellipsoid((np.abs(x), y, z), (105, -12, 80), (78, 52, 52))
        neck = _rod(canvas, (0, -15, 100), (0, -15, 230), 52)
        trunk = np.minimum(np.minimum(trunk, shoulders), neck)
    if rng.uniform() < 0.4:
        breasts = ellipsoid((np.abs(x), y, z), (68, 92, -5), (48, 34, 46))
        trunk = np.minimum(trunk, breasts)
    canvas.paint(trunk - fat + 4, FAT, BODY)
    canvas.paint(np.abs(trunk - fat + 4 + 1.5) - 1.5, 10.0)
    muscle = 25 * smooth_field(rng, canvas.grid.size, knots=12)
    canvas.paint(np.maximum(trunk + 6, np.minimum(thorax - 14, 100 - z)), SOFT + muscle, BODY)


def _paint_cage(canvas: Canvas, thorax: Array, rng: np.random.Generator) -> None:
    """Ribs that fall from the back to the front, sternum, shoulder blades and collar bones."""
    x, y, z = canvas.atlas
    phase = (z + 0.5 * y + rng.uniform(0, 26)) / 26
    across = (np.abs(phase - np.round(phase)) * 26 - 6.2) * 0.9
    shell = np.abs(thorax - 4.5) - 3.6
    rib = np.maximum(np.maximum(across, shell), np.maximum(-115 - 0.5 * y - z, 14 - np.abs(x)))
    hard = np.clip((80 - y) / 30, 0, 1)  # the ends at the front are cartilage
    canvas.paint(rib, 110 + 330 * hard, BONE)
    canvas.paint(rib + 2.6, 60 + 140 * hard)
    canvas.paint(np.maximum(ellipsoid((x, y), (0, 96), (17, 6)), np.abs(z - 25) - 75), 260.0, BONE)
    if canvas.grid.size[2] > 1:
        for side in (-1, 1):
            canvas.paint(_rod(canvas, (side * 16, 72, 104), (side * 135, 8, 128), 5.5), 520.0, BONE)
            canvas.paint(ellipsoid(canvas.atlas, (side * 150, -12, 105), (20, 20, 20)), 380.0, BONE)
    out, back = np.abs(x) - 104, y + 76
    along = 0.84 * out + 0.54 * back
    blade = np.abs(0.84 * back - 0.54 * out - 0.006 * along**2 + 8) - 3.0
    canvas.paint(np.maximum(blade, np.maximum(np.abs(along) - 33, np.abs(z - 68) - 58)), 330.0, BONE)


def _paint_spine(canvas: Canvas) -> None:
    x, y, z = canvas.atlas
    phase = z / 24
    disc = (np.abs(phase - np.round(phase)) * 24 - 3) * -1
    column = ellipsoid((x, y), (0, -72), (18, 15))
    arch = np.abs(ellipsoid((x, y), (0, -95), (13, 12))) - 3
    spikes = np.minimum(ellipsoid((x, y), (0, -116), (4.5, 16)), ellipsoid((x, y), (0, -98), (36, 6)))
    canvas.paint(np.minimum(spikes, arch), 400.0, BONE)
    canvas.paint(ellipsoid((x, y), (0, -95), (9.5, 8.5)), 30.0, BODY)
    canvas.paint(column, 330.0, BONE)
    canvas.paint(column + 3, 160.0, BONE)
    canvas.paint(np.maximum(column, disc), 90.0, BONE)


def _heart(canvas: Canvas) -> Array:
    x, y, z = canvas.atlas
    c, s = np.cos(0.6), np.sin(0.6)
    turned = (c * (x + 22) - s * (z + 45), y, s * (x + 22) + c * (z + 45))
    return ellipsoid(turned, (0, 22, 0), (62, 46, 48))


def _lungs(canvas: Canvas, thorax: Array, rng: np.random.Generator) -> Array:
    """Signed distance to both lungs: inside the ribs, beside the mediastinum, above the diaphragm."""
    x, y, z = canvas.atlas
    wide = rng.uniform(20, 26)
    middle = 0.8 * (np.abs(x - 3) - 7 - wide * np.exp(-(((y + 2) / 46) ** 2)))
    great = ellipsoid(canvas.atlas, (-2, 14, 30), (34, 36, 52))
    hilum = ellipsoid(canvas.atlas, (0, -8, 8), (44, 24, 30))
    spine = ellipsoid((x, y), (0, -78), (30, 26))
    solid = np.minimum(np.minimum(np.minimum(middle, great), hilum), np.minimum(spine, _heart(canvas) - 2))
    dome = np.where(x > 0, rng.uniform(-70, -55), rng.uniform(-82, -66)).astype(np.float32)
    floor = dome - 0.0075 * ((np.abs(x) - 62) ** 2 + (y - 10) ** 2)
    return np.maximum(np.maximum(thorax + 4, -solid), floor - z)


def _paint_abdomen(canvas: Canvas, thorax: Array, rng: np.random.Generator) -> None:
    x, _, z = canvas.atlas
    below = np.maximum(thorax + 6, z + 60)
    canvas.paint(np.maximum(below, -x - 20), 60.0)
    canvas.paint(np.maximum(below, x + 20), 30.0)
    canvas.paint(ellipsoid(canvas.atlas, (-62, 25, -105), (28, 26, rng.uniform(12, 22))), -900.0)


def _paint_mediastinum(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fat, heart and great vessels (with or without contrast agent), windpipe and main bronchi."""
    x, y, _ = canvas.atlas
    blood = rng.choice([45.0, 190.0]) + rng.uniform(-10, 20)
    inside = np.maximum(ellipsoid((x, y), (0, -4), (42, 88)), _thorax(canvas) + 4)
    fat = FAT + 50 + 50 * smooth_field(rng, canvas.grid.size)
    canvas.paint(np.where(canvas.codes == BODY, inside, 99), fat, MEDIASTINUM)
    heart = _heart(canvas)
    canvas.paint(heart, 50.0, MEDIASTINUM)
    canvas.paint(heart + 9, blood, MEDIASTINUM)
    ascending = _rod(canvas, (10, 22, -10), (8, 20, 55), 15)
    arch = _rod(canvas, (6, 16, 62), (-20, -48, 62), 12.5)
    descending = _rod(canvas, (-22, -52, 62), (-18, -54, -180), 12)
    pulmonary = np.minimum(_rod(canvas, (-12, 28, 0), (-16, 2, 22), 13), _rod(canvas, (-30, -6, 16), (34, -8, 12), 10))
    cava = _rod(canvas, (26, 14, 110), (28, 10, -10), 9)
    for vessel in (ascending, arch, descending, pulmonary, cava):
        canvas.paint(vessel, blood, MEDIASTINUM)
    tube = _rod(canvas, (0, -16, 200), (0, -24, 30), 8.5)
    bronchi = [_rod(canvas, (0, -24, 30), (side * 42, -28, 4), 6.0) for side in (-1, 1)]
    airway = np.minimum(tube, np.minimum(*bronchi))
    canvas.paint(airway - 2, 20.0)
    canvas.paint(airway, -980.0, MEDIASTINUM)


def _paint_lungs(canvas: Canvas, lungs: Array, rng: np.random.Generator) -> None:
    """Lung tissue, a little denser at the back, with noise-like fine structure."""
    y = canvas.atlas[1]
    tissue = LUNG + rng.uniform(-30, 30) - 0.25 * y + 25 * smooth_field(rng, canvas.grid.size, knots=14)
    canvas.paint(lungs, tissue)
    inside = lungs < 0
    canvas.codes[inside] = np.where(canvas.atlas[0] > 0, RIGHT_LUNG, LEFT_LUNG)[inside]


def _paint_table(canvas: Canvas, rng: np.random.Generator) -> None:
    """The curved table top below the patient, which every body mask has to leave out."""
    grid = canvas.grid
    x, y = np.meshgrid(grid.ticks(0), grid.ticks(1), indexing="ij")
    line = np.abs(y + rng.uniform(143, 150) - 0.0011 * x**2) - 2.0
    board = np.broadcast_to(np.maximum(line, np.abs(x) - 150)[..., None], grid.size)
    canvas.paint(np.where(canvas.codes == 0, board, 99), -250.0)


def paint_chest(rng: np.random.Generator, grid: Grid, table: bool = True) -> Canvas:
    """Paint one chest in Hounsfield units.

    Args:
        rng: source of the patient.
        grid: where to paint.
        table: whether the scanner's table may be in the picture.

    Returns:
        The canvas; its codes name the innermost structure of every voxel.
    """
    pose = Pose.draw(rng, (1.5, 1.5, 4.0), shift=7.0, scale=0.05)
    canvas = Canvas.blank(rng, grid, pose, warp=7.0, background=AIR)
    thorax = _thorax(canvas)
    _paint_body(canvas, thorax, rng)
    lungs = _lungs(canvas, thorax, rng)
    if grid.size[2] > 1:
        _paint_abdomen(canvas, thorax, rng)
    _paint_mediastinum(canvas.band(-105, 75), rng)
    _paint_lungs(canvas, lungs, rng)
    _paint_cage(canvas, thorax, rng)
    _paint_spine(canvas.band(-60, 60))
    paint_vessels(canvas, rng)
    if table and rng.uniform() < 0.7:
        _paint_table(canvas, rng)
    return canvas


def scan_chest(rng: np.random.Generator, hounsfield: Array) -> Array:
    """CT scanner: noise that is a little correlated and stronger behind dense tissue; HU in, HU out."""
    grain = point_spread(rng.standard_normal(hounsfield.shape).astype(np.float32), 0.4)
    grain /= max(float(grain.std()), 1e-6)
    dense = point_spread(np.clip(hounsfield + 1000, 0, 2000) / 1000, 6.0)
    return hounsfield + rng.uniform(14, 30) * np.sqrt(0.3 + dense) * grain
