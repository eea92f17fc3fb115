# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from custom.localizers import UnknownPromptError
from custom.localizers.base import Localizer, Refiner
from custom.localizers.pictures import scaled
from custom.localizers.volumes import SliceView, Slicewise, SlicewiseRefiner


@pytest.fixture
def volume(generator):
    return torch.rand(1, 9, 10, 11, generator=generator)


def slow_loop(localizer, image, prompts, axis):
    values = scaled(image, (3,))
    view, result = SliceView(axis, image.shape[1:]), torch.zeros(len(prompts), *image.shape[1:])
    for index in range(image.shape[axis + 1]):
        found = localizer.localize_pictures(view.pictures(values, [index]), prompts)
        result.select(axis + 1, index).copy_(view.planes(found)[0])
    return result


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_equals_a_slow_loop(brightness, volume, axis):
    found = Slicewise(brightness, axes=axis, batch_size=4).localize(volume, ["a", "b"])
    assert torch.equal(found, slow_loop(brightness, volume, ["a", "b"], axis))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_threshold_gives_the_volume_cut_there(threshold, volume, axis):
    found = Slicewise(threshold, axes=axis).localize(volume, ["bright"])
    assert torch.equal(found[0], (scaled(volume, (3,))[0] > 0.5).float())


@pytest.mark.parametrize(
    ("axis", "prompt", "dimension", "upper"),
    [
        (2, "left", 0, True),
        (2, "top", 1, True),
        (1, "left", 0, True),
        (1, "bottom", 2, False),
        (0, "left", 1, True),
        (0, "right", 1, False),
        (0, "top", 2, True),
    ],
)
def test_half_of_the_picture_is_half_of_the_body(halves, generator, axis, prompt, dimension, upper):
    volume = torch.rand(1, 8, 10, 12, generator=generator)
    found = Slicewise(halves, axes=axis).localize(volume, [prompt])[0].movedim(dimension, 0)
    middle = len(found) // 2
    assert found[middle:].unique().tolist() == [1.0 if upper else 0.0]
    assert found[:middle].unique().tolist() == [0.0 if upper else 1.0]


def test_each_prompt_has_its_own_map(halves, volume):
    left, right = Slicewise(halves).localize(volume, ["left", "right"])
    assert torch.equal(left + right, torch.ones_like(left))


def test_an_unknown_prompt_is_reported(halves, volume):
    with pytest.raises(UnknownPromptError, match="kidney"):
        Slicewise(halves).localize(volume, ["kidney"])


@pytest.mark.parametrize(
    ("fusion", "corner", "one_axis"),
    [("mean", 1.0, 1 / 3), ("max", 1.0, 1.0), ("geometric", 1.0, 0.0), ("vote", 1.0, 1 / 3)],
)
def test_axes_are_fused(halves, generator, fusion, corner, one_axis):
    """ "left" is the body's right in axial and coronal slices, and its front in sagittal ones."""
    volume = torch.rand(1, 8, 8, 8, generator=generator)
    found = Slicewise(halves, axes=(0, 1, 2), fusion=fusion).localize(volume, ["left"])[0]
    assert found[-1, -1, 0] == pytest.approx(corner)  # right and in front: all three
    assert found[0, -1, 0] == pytest.approx(one_axis)  # left and in front: the sagittal one
    assert found[0, 0, 0] == 0


def test_slices_come_in_batches_and_air_is_not_looked_at(brightness, volume):
    volume[..., :4] = 0
    found = Slicewise(brightness, batch_size=3).localize(volume, ["a"])
    assert brightness.seen == [3, 3, 1]
    assert found[..., :4].max() == 0


def test_step_interpolates_between_slices(brightness):
    volume = torch.arange(10.0).expand(1, 6, 6, 10) + torch.rand(6, 6, 1)
    whole = Slicewise(brightness).localize(volume, ["a"])
    brightness.seen.clear()
    sparse = Slicewise(brightness, step=4).localize(volume, ["a"])
    assert brightness.seen == [4]  # slices 0, 4, 8 and the last
    assert torch.equal(sparse[..., [0, 4, 8, 9]], whole[..., [0, 4, 8, 9]])
    torch.testing.assert_close(sparse[..., 5], 0.75 * whole[..., 4] + 0.25 * whole[..., 8])


def test_thick_slices_are_shown_in_proportion(threshold):
    image = MetaTensor(torch.rand(1, 8, 6, 5), affine=torch.diag(torch.tensor([0.5, 0.5, 4.0, 1.0])))
    found = Slicewise(threshold, axes=(0, 2)).localize(image, ["a"])
    assert {shape[2:] for shape in threshold.seen} == {(40, 6), (6, 8)}
    assert found.shape == (1, 8, 6, 5)
    assert not isinstance(found, MetaTensor)
    assert 0 <= found.min() <= found.max() <= 1


def test_pictures_pass_through(halves):
    image = torch.rand(1, 8, 6)
    assert torch.equal(Slicewise(halves).localize(image, ["left"]), halves.localize(image, ["left"]))


def test_constant_scans_and_no_prompts(brightness):
    assert Slicewise(brightness).localize(torch.ones(1, 4, 4, 4), ["a"]).max() == 0
    assert Slicewise(brightness).localize(torch.rand(1, 4, 4, 4), []).shape == (0, 4, 4, 4)
    assert brightness.seen == []


def test_it_is_described(brightness):
    localizer = Slicewise(brightness, axes=[0, 2], fusion="max", step=2)
    assert isinstance(localizer, Localizer)
    described = json.loads(json.dumps(localizer.describe()))
    assert described["localizer"] == {"name": "brightness"}
    assert (described["axes"], described["fusion"], described["step"]) == ([0, 2], "max", 2)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"axes": []}, "axes are"),
        ({"axes": (2, 2)}, "each once"),
        ({"axes": 3}, "axial"),
        ({"fusion": "median"}, "median"),
        ({"batch_size": 0}, "batch_size"),
        ({"step": 0}, "step"),
    ],
)
def test_wrong_parameters_are_named(brightness, parameters, match):
    with pytest.raises(ValueError, match=match):
        Slicewise(brightness, **parameters)


def test_the_refiner_sees_each_slice_with_its_map(outline):
    volume = torch.zeros(1, 12, 12, 6)
    volume[0, 3:8, 3:8, 1:5] = 1
    coarse = torch.zeros(2, 12, 12, 6)
    coarse[0, 5, 5, 1:3] = 1
    refiner = SlicewiseRefiner(outline)
    assert isinstance(refiner, Refiner)
    found = refiner.refine(volume, coarse)
    assert torch.equal(found[0, ..., 1:3], volume[0, ..., 1:3])
    assert found[0, ..., 3:].max() == 0
    assert found[1].max() == 0


def test_empty_maps_ask_nobody(outline, volume):
    assert SlicewiseRefiner(outline).refine(volume, torch.zeros(2, 9, 10, 11)).max() == 0
    assert SlicewiseRefiner(outline).refine(volume, torch.zeros(0, 9, 10, 11)).shape == (0, 9, 10, 11)
    assert outline.calls == 0


def test_the_refiner_passes_pictures_through(outline):
    image, coarse = torch.rand(1, 8, 6), torch.rand(1, 8, 6)
    assert torch.equal(SlicewiseRefiner(outline).refine(image, coarse), outline.refine(image, coarse))
    assert SlicewiseRefiner(outline, axes=1).describe()["axes"] == [1]


def most_held(call) -> int:
    """Bytes of tensors that are held at once, at most, beside those that were there before."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        call()
    events = [each for each in profile.kineto_results.events() if each.name() == "[memory]"]
    held = torch.tensor([each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())])
    return int(held.cumsum(0).max())


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(("axes", "fusion"), [((2,), "mean"), ((0, 1, 2), "mean"), ((0, 1, 2), "geometric")])
def test_maps_are_held_once(brightness, generator, axes, fusion, step):
    """Many prompts on a large volume: the maps fill the memory, so there is no room for another copy of them."""
    volume, prompts = torch.rand(1, 40, 40, 40, generator=generator), [f"prompt {index}" for index in range(16)]
    localizer = Slicewise(brightness, axes, fusion, batch_size=1, step=step)
    maps = localizer.localize(volume, prompts)
    assert most_held(lambda: localizer.localize(volume, prompts)) < 1.7 * maps.nbytes
