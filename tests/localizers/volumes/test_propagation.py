# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from custom.components import load_component
from custom.localizers.base import Refiner
from custom.localizers.pictures import PictureRefiner
from custom.localizers.volumes import Propagation
from custom.localizers.volumes.propagation import Rules


@pytest.fixture
def tube():
    """A bright tube that wanders along Z through the slices 2 to 17 of 20."""
    volume = torch.zeros(1, 32, 32, 20)
    for z in range(2, 18):
        x = 8 + z // 2
        volume[0, x : x + 6, 10:16, z] = 1
    return volume


@pytest.fixture
def coarse(tube):
    """Strong in slice 9, weak in all other slices of the tube, nothing elsewhere."""
    values = 0.2 * tube
    values[..., 9] = 0.9 * tube[..., 9]
    return values


def test_a_region_is_followed_through_slices_where_the_coarse_map_is_weak(outline, tube, coarse):
    assert torch.equal(Propagation(outline).refine(tube, coarse), tube)


@pytest.mark.parametrize("axis", [0, 1])
def test_along_the_other_axes(outline, tube, coarse, axis):
    turned = [each.movedim(3, axis + 1).contiguous() for each in (tube, coarse)]
    found = Propagation(outline, axis=axis).refine(*turned)
    assert torch.equal(found, turned[0])


def test_nothing_is_kept_behind_the_last_support(outline, tube, coarse):
    coarse[..., 14:] = 0
    coarse[..., :5] = 0
    found = Propagation(outline).refine(tube, coarse)
    assert torch.equal(found[..., 5:14], tube[..., 5:14])
    assert found[..., 14:].max() == found[..., :5].max() == 0


@pytest.mark.parametrize(("patience", "bridged"), [(2, False), (3, True)])
def test_gaps_are_bridged_as_far_as_patience_goes(outline, tube, coarse, patience, bridged):
    coarse[..., 11:14] = 0
    found = Propagation(outline, patience=patience).refine(tube, coarse)
    assert torch.equal(found[..., :11], tube[..., :11])
    assert torch.equal(found[..., 11:], tube[..., 11:] * bridged)


def test_the_walk_ends_where_the_structure_ends(outline, tube):
    """The coarse map goes on, the bright tube does not."""
    coarse = torch.full_like(tube, 0.3)
    coarse[..., 9] = 0.9 * tube[..., 9]
    assert torch.equal(Propagation(outline).refine(tube, coarse), tube)


def test_spurious_islands_are_dropped(outline, tube, coarse):
    tube[0, 25:27, 25:27, 5] = 1
    coarse[0, 25:27, 25:27, 5] = 0.9
    found = Propagation(outline).refine(tube, coarse)
    assert found[0, 25:27, 25:27].max() == 0
    assert found.sum() == tube.sum() - 4
    kept = Propagation(outline, least_share=0.0).refine(tube, coarse)
    assert kept[0, 25:27, 25:27, 5].min() == 1


def test_several_regions_are_followed(outline, tube, coarse):
    tube[0, 2:8, 24:30, 4:9] = 1
    coarse[0, 2:8, 24:30, 6] = 0.8
    coarse[0, 2:8, 24:30, [4, 5, 7, 8]] = 0.2
    assert torch.equal(Propagation(outline).refine(tube, coarse), tube)
    assert Propagation(outline, components=1).refine(tube, coarse)[0, 2:8, 24:30].max() == 0


def test_a_leak_ends_the_walk(outline, tube, coarse):
    tube[..., 12] = 1  # everything is bright: what is outlined there is far larger than before

    class Everything(PictureRefiner):
        def describe(self):
            return {}

        def refine_pictures(self, pictures, probabilities):
            bright = (pictures.mean(dim=1, keepdim=True) > 0.5).float()
            return bright * (probabilities.amax(dim=(2, 3), keepdim=True) > 0)

    found = Propagation(Everything()).refine(tube, coarse)
    assert torch.equal(found[..., :12], tube[..., :12])
    assert found[..., 12:].max() == 0


def test_prompts_are_kept_apart(outline, tube, coarse):
    maps = torch.cat([torch.zeros_like(coarse), coarse])
    found = Propagation(outline).refine(tube, maps)
    assert found[0].max() == 0
    assert torch.equal(found[1:], tube)


def test_the_batch_size_changes_nothing(outline, tube, coarse):
    tube[0, 2:8, 24:30, 4:9] = 1
    coarse[0, 2:8, 24:30, 4:9] = 0.8
    assert torch.equal(
        Propagation(outline, batch_size=1).refine(tube, coarse), Propagation(outline, batch_size=8).refine(tube, coarse)
    )


def test_zero_and_weak_maps_give_zero_and_ask_nobody(outline, tube):
    assert Propagation(outline).refine(tube, torch.zeros(2, 32, 32, 20)).max() == 0
    assert Propagation(outline).refine(tube, 0.4 * tube).max() == 0
    assert outline.calls == 0


def test_a_refiner_that_finds_nothing(outline, coarse):
    dark = torch.zeros(1, 32, 32, 20)
    dark[0, 0, 0, 0] = 1
    assert Propagation(outline).refine(dark, coarse).max() == 0


def test_thick_slices(outline, tube, coarse):
    image = MetaTensor(tube, affine=torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])))
    assert torch.equal(Propagation(outline).refine(image, coarse), tube)
    sideways = Propagation(outline, axis=0).refine(image, coarse)
    assert sideways.shape == coarse.shape
    assert 0 <= sideways.min() <= sideways.max() <= 1


def test_pictures_pass_through(outline):
    image, coarse = torch.rand(1, 8, 6), torch.rand(1, 8, 6)
    assert torch.equal(Propagation(outline).refine(image, coarse), outline.refine(image, coarse))


def test_the_config_holds_the_defaults(configs):
    refiner = load_component(configs / "refiners", "propagate")
    assert refiner.rules == Rules()
    assert isinstance(refiner.refiner, PictureRefiner)


def test_it_is_described(outline):
    refiner = Propagation(outline, axis=1, patience=5)
    assert isinstance(refiner, Refiner)
    described = json.loads(json.dumps(refiner.describe()))
    assert (described["axis"], described["patience"], described["threshold"]) == (1, 5, 0.5)
    assert described["refiner"] == {"name": "bright_near_prompt"}


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"axis": 3}, "axis is"),
        ({"threshold": 0}, "above 0"),
        ({"support": 2}, "lie in"),
        ({"components": 0}, "components"),
    ],
)
def test_wrong_parameters_are_named(outline, parameters, match):
    with pytest.raises(ValueError, match=match):
        Propagation(outline, **parameters)
