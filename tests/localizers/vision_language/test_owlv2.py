# SPDX-License-Identifier: Apache-2.0
"""OWLv2: boxes of a padded square come back right, prompts do not compete."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from custom.localizers.vision_language.detections import as_probability, paint
from custom.localizers.vision_language.owlv2 import Owlv2Localizer
from tests.localizers.bright import box_of_bright, centre_form, overlap, scan_with_block
from tests.localizers.tiny_models import tiny_owlv2

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_owlv2(tmp_path_factory.mktemp("models") / "owlv2")


@pytest.fixture
def localizer(folder):
    return Owlv2Localizer(source=folder, device="cpu", threshold=0.2)


@pytest.mark.parametrize("size", [(50, 80), (80, 50), (64, 64)])
def test_equals_the_library(localizer, generator, size):
    picture = torch.rand(3, *size, generator=generator)
    model, processor = localizer.checkpoint.model, localizer.checkpoint.processor
    inputs = processor(text=[["lung"]], images=picture, do_rescale=False, padding=True, return_tensors="pt")
    found = processor.post_process_grounded_object_detection(model(**inputs), threshold=0.2, target_sizes=[size])[0]
    assert len(found["scores"]) > 0
    expected = paint(found["boxes"], found["scores"], size, threshold=0.2)
    torch.testing.assert_close(localizer.localize_pictures(picture[None], ["lung"])[0, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("wide", [True, False])
def test_a_box_lies_where_the_thing_is(localizer, wide):
    def model(pixel_values, **_):
        boxes = centre_form(box_of_bright(pixel_values))[:, None]
        return SimpleNamespace(pred_boxes=boxes, logits=torch.tensor([[[3.0, 2.0]]]))

    model.config = localizer.checkpoint.model.config
    localizer.checkpoint.model = model
    scan, truth = scan_with_block()
    if not wide:
        scan, truth = scan.transpose(1, 2), truth.T
    maps = localizer.localize(scan, ["lung", "brain"])
    # one box, the right one, for both prompts: the better one does not take it away from the other
    assert overlap(maps[0], truth) > 0.75  # a pixel of the model is 1.25 pixels of the picture
    assert overlap(maps[1], truth) > 0.75
    torch.testing.assert_close(maps.amax(dim=(1, 2)), as_probability(torch.tensor([3.0, 2.0]).sigmoid(), 0.2))
