# SPDX-License-Identifier: Apache-2.0
"""Synthetic lesions: their masks say where the scan was changed, draws are seeded, 2D and 3D alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom.synthesis import APPEARANCES, LesionStatistics, RandLesionsd
from custom.synthesis.appearance import membrane
from custom.synthesis.lesion import add_lesion
from custom.synthesis.outline import draw_outline

SHAPES = [(48, 40), (28, 24, 20)]


def organ(shape, seed=0):
    """An even organ with fine texture in the dark, and where it is."""
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    area = sum(((axis - side / 2) / (side * 0.42)) ** 2 for axis, side in zip(axes, shape, strict=True)) < 1
    noise = np.random.default_rng(seed).normal(0, 0.02, shape)
    return np.where(area, 0.4 + noise, 0.0).astype(np.float32), area


def entry(shape, seed=0):
    values, area = organ(shape, seed)
    return {"image": torch.from_numpy(values)[None], "area": torch.from_numpy(area.astype(np.float32))[None]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", list(APPEARANCES))
def test_the_mask_is_where_the_scan_was_changed(shape, kind):
    values, area = organ(shape)
    donor = organ(shape, seed=1)[0] * 1.7
    statistics = LesionStatistics(
        kinds={kind: 1}, size=(0.03, 0.05), edge=(0.3, 0.6), seam=0, bright=(2, 3), dark=(0.1, 0.3)
    )
    for seed in range(3):
        changed, mask = add_lesion(np.random.RandomState(seed), values, area, donor, statistics)
        difference = np.abs(changed - values)
        assert mask.any()
        assert difference[~ndimage.binary_dilation(mask, iterations=3)].max() < 1e-3
        assert (difference[mask] > 1e-4).mean() > 0.8
        assert changed.min() >= 0


@pytest.mark.parametrize("shape", SHAPES)
def test_size_and_place_are_as_asked(shape):
    _, area = organ(shape)
    for seed in range(20):
        outline = draw_outline(np.random.RandomState(seed), area, (0.02, 0.02), 0.0, (0.2, 0.2))
        assert area[outline.centre]
        assert 0.4 * 0.02 < outline.inside.sum() / area.size < 1.3 * 0.02
    assert draw_outline(np.random.RandomState(0), np.zeros(shape, dtype=bool), (0.02, 0.02), 0.1, (1, 1)) is None


def test_brightness_is_relative_to_the_organ_or_the_scan():
    values, area = organ((48, 48))
    common = {"kinds": {"bright": 1}, "bright": (1.5, 1.5), "edge": (0.2, 0.2), "roughness": 0.0, "seam": 0}
    for reference, level in (("area", 0.6), ("scan", 1.5)):
        statistics = LesionStatistics(size=(0.05, 0.05), reference=reference, **common)
        changed, mask = add_lesion(np.random.RandomState(0), values, area, values, statistics)
        assert abs(np.median(changed[mask]) - level) < 0.05


def test_a_seam_is_darker_and_not_part_of_the_mask():
    values, area = organ((64, 64))
    statistics = LesionStatistics(kinds={"bright": 1}, size=(0.03, 0.03), edge=(0.2, 0.2), seam=1, roughness=0)
    changed, mask = add_lesion(np.random.RandomState(1), values, area, values, statistics)
    darker = changed < values - 0.03
    assert darker.any()
    assert not (darker & mask).any()
    assert not (darker & ~ndimage.binary_dilation(area, iterations=3)).any()


def test_membrane_solves_laplace_from_the_border():
    ramp = np.broadcast_to(np.arange(12.0)[:, None], (12, 12)).copy()
    inside = np.zeros((12, 12), dtype=bool)
    inside[3:9, 3:9] = True
    broken = np.where(inside, 99.0, ramp)
    assert np.allclose(membrane(broken, inside, steps=400), ramp, atol=1e-3)
    nothing = np.zeros_like(inside)
    assert membrane(ramp, nothing) is ramp


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_seeded_and_leaves_its_input_alone(shape):
    donors = [entry(shape, seed) for seed in range(3)]
    data = entry(shape)
    before = data["image"].clone()
    transform = RandLesionsd("image", donors, counts=[0, 1, 1])
    first, again, other = (transform.set_random_state(seed)(data) for seed in (5, 5, 6))
    assert torch.equal(data["image"], before)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == first["label"].shape == (1, *shape)
    assert first["image"].dtype == first["label"].dtype == torch.float32
    assert set(first["label"].unique().tolist()) <= {0.0, 1.0}


def test_no_lesion_changes_nothing_and_annotations_join_the_label():
    data = entry((32, 32))
    data["annotation"] = torch.zeros(1, 32, 32)
    data["annotation"][0, 5:8, 5:8] = 1
    nothing = RandLesionsd("image", counts=[1])(data)
    assert torch.equal(nothing["image"], data["image"])
    assert torch.equal(nothing["label"], data["annotation"])
    both = RandLesionsd("image", counts=[0, 1]).set_random_state(0)(data)
    assert (both["label"] >= data["annotation"]).all()
    assert both["label"].sum() > 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"statistics": {"kinds": {"green": 1}}}, "Unknown kind of lesion 'green'"),
        ({"statistics": {"size": [0.1, 0.05]}}, "least <= largest"),
        ({"statistics": {"size": [0.1, 1.5]}}, "below 1"),
        ({"statistics": {"kinds": {}}}, "not all zero"),
        ({"statistics": {"reference": "sun"}}, "area or scan"),
        ({"counts": [0, -1]}, "none negative"),
    ],
)
def test_impossible_lesions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandLesionsd("image", **arguments)


def test_a_donor_of_another_size_is_named():
    transform = RandLesionsd("image", [entry((16, 16))], counts=[0, 1])
    with pytest.raises(ValueError, match="same"):
        transform(entry((32, 32)))
