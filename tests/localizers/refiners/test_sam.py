# SPDX-License-Identifier: Apache-2.0
"""SAM, SAM 2 and MedSAM as refiners, on tiny models loaded from the published layout."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from custom.components import load_component
from custom.localizers.base import Refiner
from custom.localizers.pretrained import MissingWeightsError
from custom.localizers.refiners.sam import MedSamRefiner, Sam2Refiner, SamRefiner
from tests.localizers.bright import overlap, scan_with_block
from tests.localizers.tiny_models import tiny_medsam, tiny_sam, tiny_sam2

pytest.importorskip("transformers")
REFINERS = {"sam": (SamRefiner, tiny_sam), "sam2": (Sam2Refiner, tiny_sam2), "medsam": (MedSamRefiner, tiny_medsam)}
BOXES_ONLY = [{}, {"weigh_by_iou": True}]
WITH_POINTS = [*BOXES_ONLY, {"prompts": "point"}, {"prompts": "box_and_point", "negative_points": True}]


@pytest.fixture(scope="module", params=REFINERS)
def made(request, tmp_path_factory):
    refiner, build = REFINERS[request.param]
    return refiner, build(tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def refiner(made):
    return made[0](source=made[1], device="cpu")


@pytest.fixture
def scan(generator):
    """A wide scan `[C, X, Y]`."""
    return torch.rand(1, 80, 50, generator=generator)


@pytest.fixture
def coarse():
    """Two components, nothing, one component: `[P, X, Y]`."""
    maps = torch.zeros(3, 80, 50)
    maps[0, 5:20, 5:15] = 0.8
    maps[0, 50:70, 20:35] = 0.9
    maps[2, 30:40, 3:9] = 0.7
    return maps


def count_encodings(refiner) -> list[int]:
    seen: list[int] = []
    refiner.checkpoint.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_is_a_refiner_that_can_be_described(made, refiner):
    description = refiner.describe()
    assert isinstance(refiner, Refiner)
    assert json.loads(json.dumps(description)) == description
    assert str(made[1]) not in json.dumps(description)
    changed = made[0](source=made[1], threshold=0.4, margin=0.2, max_components=2, min_size=0.3, weigh_by_iou=True)
    assert all(changed.describe()[name] != description[name] for name in ("threshold", "margin", "max_components"))


def test_maps_are_probabilities_and_deterministic(made, scan, coarse):
    for options in BOXES_ONLY if made[0] is MedSamRefiner else WITH_POINTS:
        refined = made[0](source=made[1], device="cpu", **options).refine(scan, coarse)
        assert refined.shape == coarse.shape
        assert refined.dtype == torch.float32
        assert refined.min() >= 0
        assert refined.max() <= 1
        assert refined[0].std() > 0
        assert torch.equal(refined, made[0](source=made[1], device="cpu", **options).refine(scan, coarse))


def test_an_empty_map_stays_empty_without_a_look_at_the_picture(refiner, scan, coarse):
    seen = count_encodings(refiner)
    assert refiner.refine(scan, torch.zeros_like(coarse)).eq(0).all()
    assert refiner.refine(scan, torch.full_like(coarse, 0.49)).eq(0).all()
    assert refiner.refine(torch.ones_like(scan), coarse).eq(0).all()  # nor is there anything on a flat picture
    assert not seen
    assert refiner.refine(scan, coarse)[1].eq(0).all()


def test_a_picture_is_encoded_once_for_all_its_components(refiner, scan, coarse):
    seen = count_encodings(refiner)
    refiner.refine(scan, coarse)
    assert len(seen) == 1


def test_components_and_maps_do_not_influence_each_other(refiner, scan, coarse):
    together = refiner.refine(scan, coarse)
    first, second = coarse[:1].clone(), coarse[:1].clone()
    first[:, 40:], second[:, :40] = 0, 0
    alone = torch.maximum(refiner.refine(scan, first), refiner.refine(scan, second))
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(refiner.refine(scan, coarse[2:])[0], together[2], atol=1e-5, rtol=0)


def test_only_the_largest_components_are_refined(made, scan, coarse):
    one = made[0](source=made[1], device="cpu", max_components=1).refine(scan, coarse[:1])
    largest = coarse[:1].clone()
    largest[:, :40] = 0
    assert torch.equal(one, made[0](source=made[1], device="cpu").refine(scan, largest))


class StandIn:
    """Fills every box with a mask, in the model's own frame of 64 × 64 pixels, as a model that cuts out boxes would."""

    def get_image_embeddings(self, pixel_values):
        assert pixel_values.shape == (1, 3, 64, 64)
        self.pixels = pixel_values
        return pixel_values

    def __call__(self, image_embeddings, input_boxes, multimask_output):
        assert not multimask_output
        masks = torch.full((1, input_boxes.shape[1], 1, 64, 64), -20.0)
        for mask, (left, top, right, bottom) in zip(masks[0, :, 0], input_boxes[0].round().int().tolist(), strict=True):
            mask[top:bottom, left:right] = 20
        return SimpleNamespace(pred_masks=masks, iou_scores=torch.full((1, input_boxes.shape[1], 1), 0.5))


@pytest.mark.parametrize("wide", [True, False])
def test_boxes_go_to_the_model_and_masks_come_back_where_they_belong(made, wide):
    refiner = made[0](source=made[1], device="cpu", margin=0.0)
    refiner.checkpoint.model = StandIn()
    scan, truth = scan_with_block()
    if not wide:
        scan, truth = scan.transpose(1, 2), truth.T
    refined = refiner.refine(scan, truth[None] * 0.6)
    assert overlap(refined[0], truth) > 0.75  # a pixel of the model is 1.25 pixels of the picture
    assert refined.max() == pytest.approx(1, abs=1e-4)
    refiner.weigh_by_iou = True
    assert refiner.refine(scan, truth[None] * 0.6).max() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("normalised", [True, False])
def test_colours_are_those_that_the_folder_asks_for(made, generator, tmp_path, normalised):
    """MedSAM's weights of before its release want SAM's colours, those of the release none: their processors say so."""
    folder = shutil.copytree(made[1], tmp_path / "model")
    recipe = json.loads((folder / "processor_config.json").read_text())
    mean, std = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]
    recipe["image_processor"] |= {"do_normalize": normalised, "image_mean": mean, "image_std": std}
    (folder / "processor_config.json").write_text(json.dumps(recipe))
    refiner = made[0](source=folder, device="cpu")
    refiner.checkpoint.model = StandIn()
    picture = torch.rand(1, 3, 64, 64, generator=generator)
    refiner.refine_pictures(picture, torch.ones(1, 1, 64, 64))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))
    expected = (picture - mean) / std if normalised else picture
    torch.testing.assert_close(refiner.checkpoint.model.pixels, expected, atol=1e-5, rtol=0)
    assert refiner.describe()["normalize"] == ([[0.3, 0.4, 0.5], [0.2, 0.25, 0.3]] if normalised else None)


def test_medsam_is_the_release_that_its_recipe_belongs_to(tmp_path):
    assert MedSamRefiner.published.repo_id == "flaviagiammarino/medsam-vit-base"
    assert MedSamRefiner.version > 1  # maps of the weights that were pinned before are made anew
    refiner = MedSamRefiner(source=tiny_medsam(tmp_path / "medsam"), device="cpu")
    assert refiner.describe()["normalize"] is None


@pytest.mark.parametrize("made", ["sam", "sam2"], indirect=True)
def test_equals_the_library(made, generator):
    refiner = made[0](source=made[1], device="cpu", margin=0.0)
    picture = torch.rand(3, 50, 80, generator=generator)
    coarse = torch.zeros(1, 1, 50, 80)
    coarse[..., 10:30, 20:60] = 1
    model, processor = refiner.checkpoint.model, refiner.checkpoint.processor
    inputs = processor(images=picture, input_boxes=[[[20, 10, 60, 30]]], do_rescale=False, return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    used = {name: inputs[name] for name in ("pixel_values", "input_boxes")}
    masks = processor.post_process_masks(model(**used, multimask_output=False).pred_masks, *sizes, binarize=False)
    expected = masks[0][:, 0].sigmoid()
    torch.testing.assert_close(refiner.refine_pictures(picture[None], coarse)[0], expected, atol=1e-5, rtol=0)


def test_the_shipped_config_holds_the_defaults(made, refiner, configs):
    built = load_component(configs / "refiners", made[1].name, {"source": str(made[1]), "device": "cpu"})
    assert type(built) is made[0]
    assert built.describe() == refiner.describe()


def test_missing_weights_are_named_with_what_to_run(made, tmp_path, monkeypatch, scan, coarse):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=f"{made[0].published.repo_id}.*download: true"):
        made[0](device="cpu").refine(scan, coarse)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "scribble"}, "box, point, box_and_point"),
        ({"threshold": 1.2}, "threshold"),
        ({"max_components": 0}, "max_components"),
        ({"negative_points": True}, "negative_points needs"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamRefiner(**options)
