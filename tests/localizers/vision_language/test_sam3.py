# SPDX-License-Identifier: Apache-2.0
"""SAM 3: instances become one soft map, and the presence head is heeded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from custom.localizers.vision_language.detections import as_probability
from custom.localizers.vision_language.sam3 import Sam3Localizer
from tests.localizers.bright import bright, overlap, scan_with_block
from tests.localizers.tiny_models import tiny_sam3

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sam3(tmp_path_factory.mktemp("models") / "sam3")


@pytest.fixture
def localizer(folder):
    return Sam3Localizer(source=folder, device="cpu", threshold=0.0)


class StandIn:
    """Answers as SAM 3 does: one instance, what is bright, and one that is nowhere."""

    def __init__(self, config, presence: float, sure: float = 20.0) -> None:
        self.config, self.presence, self.sure = config, presence, sure

    def get_vision_features(self, pixel_values):
        return bright(pixel_values)

    def get_text_features(self, input_ids, attention_mask):
        return SimpleNamespace(pooler_output=torch.zeros(*input_ids.shape, 8))

    def __call__(self, vision_embeds, **_):
        masks = (vision_embeds.float()[:, None] * 2 - 1) * self.sure
        number = len(masks)
        return SimpleNamespace(
            pred_masks=torch.cat([masks, torch.full_like(masks, 20.0)], dim=1),
            pred_logits=torch.tensor([[4.0, -4.0]]).expand(number, -1),
            presence_logits=torch.full((number, 1), self.presence),
        )


def test_equals_the_library(localizer, generator):
    picture = torch.rand(3, 56, 56, generator=generator)
    model, processor = localizer.checkpoint.model, localizer.checkpoint.processor
    output = model(**processor(images=picture, text="lung", do_rescale=False, return_tensors="pt"))
    scores = processor.post_process_object_detection(output, threshold=0.0)[0]["scores"]
    expected = torch.minimum(scores[:, None, None], output.pred_masks[0].sigmoid()).amax(dim=0)
    expected = torch.nn.functional.interpolate(expected[None, None], (56, 56), mode="bilinear", antialias=True)
    torch.testing.assert_close(localizer.localize_pictures(picture[None], ["lung"]), expected, atol=1e-5, rtol=0)


def test_a_picture_is_encoded_once_for_all_prompts(localizer, generator):
    seen = []
    localizer.checkpoint.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    localizer.localize(torch.rand(1, 40, 50, generator=generator), ["lung", "brain", "tumor"])
    assert len(seen) == 1


def test_what_is_found_lies_where_it_is(localizer):
    localizer.threshold = 0.3
    localizer.checkpoint.model = StandIn(localizer.checkpoint.model.config, presence=20.0)
    scan, truth = scan_with_block()
    found = localizer.localize(scan, ["lung"])[0]
    assert overlap(found, truth) > 0.8
    assert found.max() == pytest.approx(float(as_probability(torch.tensor(4.0).sigmoid(), 0.3)), abs=1e-4)
    assert found.min() < 1e-4  # the instance below the threshold is gone


def test_a_concept_that_is_not_in_the_picture_is_not_found(localizer):
    localizer.threshold = 0.3
    localizer.checkpoint.model = StandIn(localizer.checkpoint.model.config, presence=-2.0)
    assert localizer.localize(scan_with_block()[0], ["lung"]).eq(0).all()


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_what_the_model_keeps_is_region_wherever_its_mask_is(localizer, threshold):
    """An instance at the threshold counts as 0.5, and its mask is not eroded by its score."""
    localizer.threshold = threshold
    model = StandIn(localizer.checkpoint.model.config, presence=20.0, sure=10.0)
    localizer.checkpoint.model = model
    outputs = model(bright(scan_with_block()[0][None].transpose(2, 3)))
    score = torch.tensor(threshold, dtype=torch.float64).logit().float() + 1e-4
    outputs.pred_logits = torch.stack([score, torch.tensor(-20.0)])[None]
    found = localizer._soft_map(outputs)[0]
    assert torch.equal(found >= 0.5, outputs.pred_masks[0, 0] > 0)
    outputs.pred_logits = outputs.pred_logits - 0.1
    assert localizer._soft_map(outputs).eq(0).all()


def test_a_phrase_is_read_once_whatever_the_number_of_pictures(localizer, generator):
    seen = []
    localizer.checkpoint.model.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    pictures = torch.rand(3, 3, 40, 50, generator=generator)
    first = localizer.localize_pictures(pictures, ["lung", "brain"])
    again = localizer.localize_pictures(pictures, ["brain", "lung"])
    assert len(seen) == 2
    assert torch.equal(first, again.flip(1))
