# SPDX-License-Identifier: Apache-2.0
"""Promises of every localizer from a vision-language model, on tiny models loaded from the published layout."""

from __future__ import annotations

import json

import pytest
import torch

from custom.components import load_component
from custom.localizers import Localizer, UnknownPromptError
from custom.localizers.pretrained import MissingWeightsError
from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from custom.localizers.vision_language.grounding_dino import GroundingDinoLocalizer
from custom.localizers.vision_language.owlv2 import Owlv2Localizer
from custom.localizers.vision_language.sam3 import Sam3Localizer
from tests.localizers.tiny_models import tiny_clipseg, tiny_grounding_dino, tiny_owlv2, tiny_sam3

pytest.importorskip("transformers")

MODELS = {
    "clipseg": (ClipSegLocalizer, tiny_clipseg, {}),
    "grounding_dino": (GroundingDinoLocalizer, tiny_grounding_dino, {"threshold": 0.0}),
    "owlv2": (Owlv2Localizer, tiny_owlv2, {"threshold": 0.0}),
    "sam3": (Sam3Localizer, tiny_sam3, {"threshold": 0.0}),
}
THRESHOLDED = ["grounding_dino", "owlv2", "sam3"]


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """Class, folder of a tiny model, and options under which random weights find something."""
    localizer, build, options = MODELS[request.param]
    return localizer, build(tmp_path_factory.mktemp("models") / request.param), options


@pytest.fixture(scope="module")
def localizer(made):
    return made[0](source=made[1], device="cpu", **made[2])


@pytest.fixture
def scan(generator):
    """A tall picture of blobs, as scans are kept: `[C, X, Y]`."""
    return torch.nn.functional.interpolate(torch.rand(1, 1, 4, 7, generator=generator), (40, 70))[0]


def test_is_a_localizer_that_can_be_described(made, localizer):
    description = localizer.describe()
    assert isinstance(localizer, Localizer)
    assert json.loads(json.dumps(description)) == description
    assert description["name"] in str(made[1])
    assert len(description["weights"]) == 16
    assert str(made[1]) not in json.dumps(description)  # a record holds wherever the weights lie


def test_maps_are_probabilities_on_the_grid_of_the_scan(localizer, scan):
    maps = localizer.localize(scan, ["lung", "Brain tumor", "a"])
    assert maps.shape == (3, 40, 70)
    assert maps.dtype == torch.float32
    assert 0 <= maps.min() < maps.max() <= 1


def test_is_deterministic_and_leaves_the_scan_alone(made, localizer, scan):
    before = scan.clone()
    again = made[0](source=made[1], device="cpu", **made[2])
    torch.testing.assert_close(localizer.localize(scan, ["lung"]), again.localize(scan, ["lung"]), rtol=0, atol=0)
    assert torch.equal(scan, before)


def test_prompts_matter_and_do_not_influence_each_other(localizer, scan):
    lung, tumor = localizer.localize(scan, ["lung", "tumor of the brain"])
    assert not torch.allclose(lung, tumor)
    torch.testing.assert_close(localizer.localize(scan, ["lung"])[0], lung, atol=1e-5, rtol=0)
    torch.testing.assert_close(localizer.localize(scan, ["tumor of the brain"])[0], tumor, atol=1e-5, rtol=0)


def test_pictures_do_not_influence_each_other(made, generator):
    pictures = torch.rand(3, 3, 30, 50, generator=generator)
    together = made[0](source=made[1], device="cpu", batch_size=2, **made[2])
    maps = together.localize_pictures(pictures, ["lung", "brain"])
    assert maps.shape == (3, 2, 30, 50)
    for picture, expected in zip(pictures, maps, strict=True):
        torch.testing.assert_close(
            together.localize_pictures(picture[None], ["lung", "brain"])[0], expected, atol=1e-5, rtol=0
        )


def test_a_flat_picture_shows_nothing(localizer, scan):
    assert localizer.localize(torch.full((1, 20, 30), 7.0), ["lung"]).eq(0).all()
    pictures = torch.stack([torch.zeros(3, 20, 20), torch.rand(3, 20, 20)])
    maps = localizer.localize_pictures(pictures, ["lung"])
    assert maps[0].eq(0).all()
    assert maps[1].gt(0).any()


def test_no_prompt_no_map(localizer, scan):
    assert localizer.localize(scan, []).shape == (0, 40, 70)


@pytest.mark.parametrize("prompt", ["", "  ", "...", "?!"])
def test_a_prompt_without_words_is_refused(localizer, scan, prompt):
    with pytest.raises(UnknownPromptError, match="holds no word"):
        localizer.localize(scan, [prompt])


def test_a_prompt_that_is_too_long_is_refused_by_name(localizer, scan):
    with pytest.raises(UnknownPromptError, match=r"'lung lung.*tokens.*reads at most \d+") as caught:
        localizer.localize(scan, ["lung", "lung " * 50])
    assert caught.value.prompt == "lung " * 50


def test_the_longest_prompt_that_is_let_through_is_read(localizer, scan):
    fits = "lung " * (localizer.longest_prompt() - 3)
    assert localizer.localize(scan, [fits.strip()]).isfinite().all()


def test_missing_weights_are_named_with_what_to_run(made, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    published = made[0].published
    with pytest.raises(MissingWeightsError, match=f"{published.repo_id}.*download: true") as caught:
        made[0](device="cpu").localize(torch.rand(1, 8, 8), ["lung"])
    assert published.revision in str(caught.value)
    assert published.licence in str(caught.value)
    assert ("gated" in str(caught.value)) == published.gated


@pytest.mark.parametrize("made", THRESHOLDED, indirect=True)
def test_the_parameters_that_matter_are_described(made):
    options = {**made[2], "threshold": 0.9}
    assert made[0](source=made[1], device="cpu", **options).describe()["threshold"] == 0.9
    with pytest.raises(ValueError, match="threshold"):
        made[0](threshold=1.5)


@pytest.mark.parametrize("made", THRESHOLDED, indirect=True)
def test_nothing_above_the_threshold_is_a_map_of_zeros(made, scan):
    assert made[0](source=made[1], device="cpu", threshold=1.0).localize(scan, ["lung"]).eq(0).all()


def test_the_shipped_config_holds_the_defaults(made, configs):
    built = load_component(configs / "localizers", made[1].name, {"source": str(made[1]), "device": "cpu"})
    default = made[0](source=made[1], device="cpu")
    assert type(built) is made[0]
    assert built.describe() == default.describe()
    assert built.batch_size == default.batch_size


def test_batches_must_hold_something(made):
    with pytest.raises(ValueError, match="batch_size"):
        made[0](batch_size=0)
