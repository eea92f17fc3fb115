# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO: one prompt at a time, in its own text format, boxes where things are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from custom.localizers.vision_language.detections import as_probability, paint
from custom.localizers.vision_language.grounding_dino import GroundingDinoLocalizer
from tests.localizers.bright import box_of_bright, centre_form, overlap, scan_with_block
from tests.localizers.tiny_models import tiny_grounding_dino

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_grounding_dino(tmp_path_factory.mktemp("models") / "grounding_dino")


@pytest.fixture
def localizer(folder):
    return GroundingDinoLocalizer(source=folder, device="cpu", threshold=0.2)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Brain Tumor", "brain tumor."),
        ("lung.", "lung."),
        (" left  lung. right lung? ", "left lung right lung."),
        ("nodule of 1.5 cm", "nodule of 1 5 cm."),
    ],
)
def test_prompts_are_put_into_the_form_that_the_model_reads(localizer, prompt, text):
    assert localizer.as_text(prompt) == text


def test_equals_the_library(localizer, generator):
    picture = torch.rand(3, 50, 80, generator=generator)
    model, processor = localizer.checkpoint.model, localizer.checkpoint.processor
    inputs = processor(text="lung.", images=picture, do_rescale=False, return_tensors="pt")
    found = processor.post_process_grounded_object_detection(
        model(**inputs), inputs["input_ids"], threshold=0.2, target_sizes=[(50, 80)]
    )[0]
    assert len(found["scores"]) > 0
    expected = paint(found["boxes"], found["scores"], (50, 80), threshold=0.2)
    torch.testing.assert_close(localizer.localize_pictures(picture[None], ["Lung"])[0, 0], expected, atol=1e-6, rtol=0)


def test_a_box_lies_where_the_thing_is(localizer):
    def model(pixel_values, **_):
        boxes = centre_form(box_of_bright(pixel_values))[:, None]
        return SimpleNamespace(pred_boxes=boxes, logits=torch.full((len(boxes), 1, 5), 3.0))

    model.config = localizer.checkpoint.model.config
    localizer.checkpoint.model = model
    scan, truth = scan_with_block()
    maps = localizer.localize(scan, ["lung"])
    assert overlap(maps[0], truth) > 0.85
    assert maps.max() == pytest.approx(float(as_probability(torch.tensor(3.0).sigmoid(), 0.2)))  # not stretched


def test_a_picture_is_looked_at_once_for_all_prompts(localizer, generator):
    seen, backbone = [], localizer.checkpoint.model.model.backbone
    backbone.register_forward_hook(lambda *_: seen.append(1))
    pictures = torch.rand(2, 3, 50, 80, generator=generator)
    prompts = ["lung", "brain", "tumor of the brain"]
    together = localizer.localize_pictures(pictures, prompts)
    assert len(seen) == 2  # one a batch
    alone = torch.cat([localizer.localize_pictures(pictures, [prompt]) for prompt in prompts], dim=1)
    assert torch.equal(together, alone)
    assert localizer.checkpoint.model.model.backbone is backbone
