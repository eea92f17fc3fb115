# SPDX-License-Identifier: Apache-2.0
"""Operators on arrays whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from custom.localizers.guess import guess_modality
from custom.localizers.operators import OPERATORS, Scan
from custom.localizers.operators.blobs import _largest_of_three, blobness
from custom.localizers.operators.grid import resized
from custom.localizers.operators.lungs import lung_mask
from custom.localizers.operators.refine import at_least, complement, grow, side
from custom.localizers.operators.scan import closed, dilated, eroded, largest, ratio_probability, unit


def ellipsoid(shape, centre, radii):
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) <= 1


def chest(dims):
    """CT in Hounsfield units: air, soft tissue, two lungs, a ball in the lung at high indices; and these masks."""
    shape, tail = ((96, 80), ()) if dims == 2 else ((60, 50, 20), (10,))
    width, height = shape[:2]
    long = (1000.0,) * len(tail)
    body = ellipsoid(shape, (width / 2, height / 2, *tail), (width * 0.45, height * 0.42, *long))
    lungs = [
        ellipsoid(shape, (width * x, height / 2, *tail), (width * 0.15, height * 0.28, *long)) for x in (0.28, 0.72)
    ]
    ball = ellipsoid(shape, (width * 0.72, height * 0.45, *tail), (4,) * dims)
    values = np.where(body, 40.0, -1000.0)
    values[lungs[0] | lungs[1]] = -850
    values[ball] = 30
    noise = np.random.default_rng(0).normal(0, 10, shape)
    return (values + noise).astype(np.float32), lungs, ball


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("hounsfield", [True, False])
def test_lungs_and_nodule_on_ct(dims, hounsfield):
    values, lungs, ball = chest(dims)
    scan = Scan(values if hounsfield else (values + 1000) / 5, "ct", "right")
    assert scan.hounsfield == hounsfield
    found = OPERATORS["lungs"](scan) > 0.5
    assert dice(found, lungs[0] | lungs[1]) > 0.9
    nodule = OPERATORS["nodule"](scan)
    assert ball.ravel()[nodule.argmax()]
    assert (nodule > 0.5)[ball].mean() > 0.5
    assert (nodule > 0.5)[~dilated(ball, 4)].mean() < 0.02


@pytest.mark.parametrize("dims", [2, 3])
def test_lung_without_nodule_gives_none(dims):
    values, _, ball = chest(dims)
    values[ball] = -850
    assert (OPERATORS["nodule"](Scan(values, "ct", "right")) > 0.5).mean() < 0.005


def test_opacity_is_the_dense_part_of_the_lung():
    values, lungs, _ = chest(2)
    values[lungs[0] & (np.arange(80)[None] > 45)] = -350
    found = OPERATORS["opacity"](Scan(values, "ct", "right")) > 0.5
    dense = lungs[0] & (np.arange(80)[None] > 45)
    assert found[eroded(dense, 2)].mean() > 0.8
    assert found[eroded(lungs[0] & ~dense, 3)].mean() < 0.05


def test_no_air_no_lungs():
    values = np.full((40, 40), 40, dtype=np.float32)
    values[0, 0] = -900
    assert not lung_mask(Scan(values, "ct", "right")).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_asymmetry_is_signed_by_contrast(dims):
    shape = (40,) * dims
    centre = (19.5,) * dims
    values = np.where(ellipsoid(shape, centre, (16,) * dims), 100.0, 0.0)
    spot = ellipsoid(shape, (28, *centre[1:]), (4,) * dims)
    mirrored = spot[::-1]
    values[spot] = 170
    values = values + np.random.default_rng(0).normal(0, 1, shape)
    bright, dark = (OPERATORS["asymmetry"](Scan(values, "mri", "right"), contrast=c) for c in ("bright", "dark"))
    assert bright[spot].mean() > 0.8
    assert bright[mirrored].mean() < 0.1
    assert dark[mirrored].mean() > 0.8
    assert dark[spot].mean() < 0.1


def test_blobness_prefers_balls_to_lines():
    shape = (48, 48, 48)
    ball = ellipsoid(shape, (24, 24, 24), (5, 5, 5)).astype(np.float32)
    line = ellipsoid(shape, (24, 24, 24), (5, 5, 1e6)).astype(np.float32)
    strength, of_line = (blobness(each, [1, 2, 3, 4]) for each in (ball, line))
    assert strength[24, 24, 24] > 0.15
    assert of_line[24, 24, 24] < 0.1 * strength[24, 24, 24]
    assert not blobness(np.zeros((9, 9), dtype=np.float32), [1.0]).any()


def test_largest_eigenvalue_in_closed_form():
    matrices = np.random.default_rng(0).normal(size=(50, 3, 3))
    matrices = matrices + matrices.swapaxes(1, 2)
    assert np.allclose(_largest_of_three(matrices), np.linalg.eigvalsh(matrices)[:, -1], atol=1e-5)


def test_hippocampus_knows_only_volumes():
    values = np.random.default_rng(0).random((35, 50, 35)).astype(np.float32)
    region = OPERATORS["hippocampus"](Scan(values, "mri", "left"))
    assert (region > 0.5).mean() < 0.15
    assert not OPERATORS["hippocampus"](Scan(values[0], "mri", "right")).any()


def test_refiners():
    region = np.zeros((20, 10), dtype=np.float32)
    region[4:16, 2:8] = 1
    region[0, 0] = 1
    scan = Scan(np.zeros((20, 10), dtype=np.float32), "ct", "right")
    assert at_least(region, scan, share=0.02)[0, 0] == 0
    clean = at_least(region, scan, share=0.02)
    assert np.flatnonzero(side(clean, scan, keep="right").any(axis=1)).tolist() == list(range(4, 10))
    assert np.flatnonzero(side(clean, scan, keep="left").any(axis=1)).tolist() == list(range(10, 16))
    assert complement(clean, scan)[0, 0] == 1
    assert grow(clean, scan, share=0.1).sum() > clean.sum()


def test_morphology_by_distance():
    mask = np.zeros((21, 21), dtype=bool)
    mask[10, 10] = True
    assert dilated(mask, 3).sum() == 29  # lattice points of a disc of radius 3
    assert (eroded(dilated(mask, 5), 5) == mask).all()
    assert dilated(np.zeros((3, 3), dtype=bool), 2).sum() == 0
    gap = np.ones((21, 21), dtype=bool)
    gap[10, 10] = False
    assert closed(gap, 2).all()
    assert largest(np.array([1, 1, 0, 1], dtype=bool)).tolist() == [True, True, False, False]


def test_scaling_and_probability():
    assert unit(np.full(5, 3.0)).tolist() == [0] * 5
    assert ratio_probability(np.array([-1.0, 0.0, 2.0]), 2.0).tolist() == [0, 0, 0.5]
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (8, 6))
    assert np.allclose(resized(ramp, (16, 6))[2:-2, 0], (np.arange(16) / 2 - 0.25)[2:-2])


@pytest.mark.parametrize(
    ("values", "among", "modality"),
    [
        (np.linspace(-1000, 400, 64).reshape(8, 8), ("mri", "ct"), "ct"),
        (np.pad(np.ones((8, 8)), 4), ("mri", "ct", "xray"), "mri"),
        (np.pad(np.ones((8, 8)), 4), ("ct", "xray"), "ct"),
        (np.random.default_rng(0).random((16, 16)), ("mri", "ct", "xray"), "xray"),
        (np.random.default_rng(0).random((8, 8, 8)), ("ct", "xray"), "ct"),
        (np.ones((8, 8)), ("mri",), "mri"),
    ],
)
def test_modality_is_guessed(values, among, modality):
    assert guess_modality(values, among) == modality
