# SPDX-License-Identifier: Apache-2.0
"""CLIPSeg as the library runs it, with each picture encoded once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from tests.localizers.bright import bright, overlap, scan_with_block
from tests.localizers.tiny_models import tiny_clipseg

pytest.importorskip("transformers")
PROMPTS = ["lung", "brain tumor", "a chair"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clipseg(tmp_path_factory.mktemp("models") / "clipseg")


@pytest.fixture
def localizer(folder):
    return ClipSegLocalizer(source=folder, device="cpu")


def test_equals_the_library(localizer, generator):
    picture = torch.rand(3, 64, 64, generator=generator)
    model, processor = localizer.checkpoint.model, localizer.checkpoint.processor
    inputs = processor(text=PROMPTS, images=[picture] * 3, do_rescale=False, padding=True, return_tensors="pt")
    expected = model(**inputs).logits.sigmoid()
    torch.testing.assert_close(localizer.localize_pictures(picture[None], PROMPTS)[0], expected, atol=1e-6, rtol=0)


def test_pictures_are_normalised_as_published(localizer, generator):
    picture = torch.rand(1, 3, 64, 64, generator=generator)
    torch.testing.assert_close(localizer._prepared(picture), (picture - 0.5) / 0.25)


def test_a_picture_is_encoded_once_for_all_prompts(localizer, generator):
    seen = []
    localizer.checkpoint.model.clip.vision_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(inputs["pixel_values"])), with_kwargs=True
    )
    localizer.batch_size = 2
    localizer.localize_pictures(torch.rand(3, 3, 30, 50, generator=generator), PROMPTS)
    assert seen == [2, 1]


def test_what_is_found_lies_where_it_is(localizer, monkeypatch):
    model = localizer.checkpoint.model
    monkeypatch.setattr(
        model.clip.vision_model, "forward", lambda pixel_values, **_: SimpleNamespace(hidden_states=[pixel_values] * 4)
    )
    monkeypatch.setattr(
        model.decoder, "forward", lambda seen, _: SimpleNamespace(logits=bright(seen[0]).float() * 20 - 10)
    )
    scan, truth = scan_with_block()
    assert overlap(localizer.localize(scan, ["lung"])[0], truth) > 0.85


def test_a_phrase_is_read_once_whatever_the_number_of_pictures(localizer, generator):
    seen = []
    localizer.checkpoint.model.clip.text_model.register_forward_hook(lambda *_: seen.append(1))
    localizer.batch_size = 1
    pictures = torch.rand(2, 3, 40, 50, generator=generator)
    localizer.localize_pictures(pictures, ["lung", "brain"])
    localizer.localize_pictures(pictures, ["brain"])
    assert len(seen) == 2
