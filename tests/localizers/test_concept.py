# SPDX-License-Identifier: Apache-2.0
"""The concept localizer as a whole: maps, sides, empty answers."""

from __future__ import annotations

import pytest
import torch

from custom.localizers import BodyOnly, CentredDisc, ConceptLocalizer

PROMPTS = ["body", "brain", "brain tumor", "asymmetry", "hippocampus", "lung", "lung nodule", "lung opacity"]


@pytest.fixture(scope="module")
def localizer(configs):
    return ConceptLocalizer(configs / "localizers" / "vocabulary.yaml")


def head(dims: int, lesion_at: tuple[float, ...] | None = None, noise: float = 2.0) -> torch.Tensor:
    """A bright skull, dark bone, even brain of level 100 with, or without, a bright ball; deterministic."""
    size = 96 if dims == 2 else 40
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * dims, indexing="ij")
    radius = sum(axis**2 for axis in axes).sqrt()
    image = torch.where(radius < 0.9, 160.0, 0.0)
    image = torch.where(radius < 0.8, 20.0, image)
    image = torch.where(radius < 0.72, 100.0, image)
    if lesion_at is not None:
        away = sum((axis - centre) ** 2 for axis, centre in zip(axes, lesion_at, strict=True)).sqrt()
        image = torch.where(away < 0.16, 190.0, image)
    generator = torch.Generator().manual_seed(0)
    return (image + noise * torch.randn(image.shape, generator=generator))[None]


def maximum(region: torch.Tensor) -> list[float]:
    """Place of the maximum, -1 to 1 along each axis."""
    index = torch.unravel_index(region.argmax(), region.shape)
    return [2 * float(each) / (size - 1) - 1 for each, size in zip(index, region.shape, strict=True)]


@pytest.mark.parametrize("dims", [2, 3])
def test_every_prompt_gives_probabilities_and_the_same_ones_again(localizer, dims):
    image = head(dims, (0.3,) * dims)
    maps = localizer.localize(image, PROMPTS)
    assert maps.shape == (len(PROMPTS), *image.shape[1:])
    assert maps.dtype == torch.float32
    assert float(maps.min()) >= 0
    assert float(maps.max()) <= 1
    again = localizer.localize(image.clone(), PROMPTS[::-1]).flip(0)
    assert torch.equal(maps, again)


@pytest.mark.parametrize("shape", [(1, 40, 50), (1, 20, 24, 28), (3, 5, 7), (1, 1, 1), (1, 2, 3, 4)])
@pytest.mark.parametrize("value", [0.0, 57.0, -1000.0])
def test_constant_scan_is_empty(localizer, shape, value):
    maps = localizer.localize(torch.full(shape, value), PROMPTS)
    assert maps.shape == (len(PROMPTS), *shape[1:])
    assert not maps.any()


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 9, 4), (1, 4, 5, 3), (1, 64, 64, 2), (2, 33, 17)])
def test_tiny_and_flat_scans_do_not_fail(localizer, shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 200
    maps = localizer.localize(image, PROMPTS)
    assert bool(((maps >= 0) & (maps <= 1)).all())


@pytest.mark.parametrize("dims", [2, 3])
def test_brain_lies_inside_the_skull(localizer, dims):
    image = head(dims)
    brain = localizer.localize(image, ["brain"])[0] > 0.5
    truth = (image[0] > 60) & (image[0] < 140)
    dice = 2 * (brain & truth).sum() / (brain.sum() + truth.sum())
    assert dice > 0.9


@pytest.mark.parametrize("place", [(0.35, 0.1), (-0.3, -0.3), (0.2, 0.2, 0.3), (-0.4, 0.0, 0.1)])
def test_lesion_is_found_where_it_is(localizer, place):
    image = head(len(place), place)
    for prompt in ("brain tumor", "bright lesion"):
        found = maximum(localizer.localize(image, [prompt])[0])
        assert sum((a - b) ** 2 for a, b in zip(found, place, strict=True)) ** 0.5 < 0.2


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_lesion_little_is_left(localizer, dims):
    # The sharp border to the bone looks rough, so a thin rim may remain; nothing is stretched to 1.
    region = localizer.localize(head(dims), ["brain tumor"])
    assert float((region > 0.5).float().mean()) < 0.02
    assert float(region.max()) < 0.8


def test_side_words_cut_at_the_middle_and_follow_the_convention(localizer, configs):
    image = head(2)
    left, right, both = localizer.localize(image, ["left brain", "right brain", "brain"])
    assert torch.equal(torch.maximum(left, right), both)
    assert not left[:40].any()  # radiological: the patient's right is at low x
    assert not right[56:].any()
    volume = localizer.localize(head(3), ["left brain"])[0]
    assert not volume[24:].any()  # RAS+: low indices are left
    neurological = ConceptLocalizer(configs / "localizers" / "vocabulary.yaml", sides_2d="neurological")
    assert torch.equal(neurological.localize(image, ["left brain"])[0], right)


def test_mirrored_scan_swaps_the_sides(localizer):
    image = head(2, (0.35, 0.1))
    # Smoothing sums in another order, so a few values differ in the last digits.
    left, tumor = localizer.localize(image, ["left brain", "brain tumor"])
    right_of_mirrored, tumor_of_mirrored = localizer.localize(image.flip(1), ["right brain", "brain tumor"])
    assert float((left - right_of_mirrored.flip(0)).abs().mean()) < 0.01
    place, mirrored = maximum(tumor), maximum(tumor_of_mirrored)
    assert mirrored[0] == pytest.approx(-place[0], abs=0.1)


def test_input_is_checked(localizer):
    with pytest.raises(ValueError, match="NaN"):
        localizer.localize(torch.full((1, 8, 8), float("nan")), ["brain"])
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        localizer.localize(torch.zeros(8, 8), ["brain"])
    assert localizer.localize(torch.zeros(1, 8, 8), []).shape == (0, 8, 8)


@pytest.mark.parametrize("shape", [(64, 96), (40, 32, 48)])
def test_disc_has_its_area(shape):
    region = CentredDisc(area=0.15).localize(torch.rand(1, *shape), ["a", "b"])
    assert region.shape == (2, *shape)
    assert float(region.mean()) == pytest.approx(0.15, abs=0.01)
    with pytest.raises(ValueError, match="area"):
        CentredDisc(area=0.9)


def test_body_ignores_the_prompt():
    maps = BodyOnly().localize(head(2), ["left lung", "nonsense"])
    assert torch.equal(maps[0], maps[1])
    assert float(maps[0].mean()) == pytest.approx(0.64, abs=0.05)
