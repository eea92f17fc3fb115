# SPDX-License-Identifier: Apache-2.0
"""Gradient saliency on towers whose answer is known, and on a small model of the real classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from custom.localizers.vision_language.gradient import GradientSaliency
from custom.localizers.vision_language.open_clip_model import OpenClipModel
from tests.localizers.vision_language import tiny_open_clip as tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.save_tiny_model(tmp_path_factory.mktemp("weights") / "model")
    return OpenClipModel(folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(3)
    return F.interpolate(torch.randn((3, 3, 12, 12), generator=generator), size=tiny.SIDE, mode="bicubic")


class Sum:
    """Features are the sum of the tokens."""

    blocks, grid, extra = 3, (1, 2), 1

    def prefix(self, pictures, layer):
        raise AssertionError("the tokens are given")

    def suffix(self, tokens, layer):
        return tokens.sum(dim=1)


def test_known_contributions():
    tokens = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])
    found = GradientSaliency(layer=0)(Sum(), tokens, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(1, 3, 2))
    # cosine = x / |(x, y)| at (3, 4): its slope is (16, -12) / 125, and (-12, 9) / 125 for y
    expected = torch.tensor([[[0, 48 / 125, 0], [0, 0, 36 / 125]]])
    torch.testing.assert_close(found, expected)


def tokens_of(model, pictures, layer):
    with torch.no_grad():
        return model.tower.prefix(pictures, layer)


@pytest.mark.parametrize("layer", [1, 4])
def test_it_equals_the_slope_through_the_whole_model(model, pictures, layer):
    texts, blank = model.encode(["brain tumor", "chair"]), torch.zeros_like(pictures[:1])
    reference = tokens_of(model, blank, layer)
    kept = {}
    hook = model.tower.trunk.blocks[layer].register_forward_hook(
        lambda _module, _inputs, tokens: kept.setdefault("tokens", tokens.detach().requires_grad_())
    )
    features = model.tower.head(model.tower.trunk(pictures[:1]))
    hook.remove()
    found = GradientSaliency(layer)(model.tower, tokens_of(model, pictures, layer), texts, reference)
    for text in range(2):
        cosine = F.cosine_similarity(features[0], texts[text], dim=0)
        (slope,) = torch.autograd.grad(cosine, kept["tokens"], retain_graph=True)
        expected = (slope * (kept["tokens"] - reference)).sum(dim=-1).clamp(min=0)[0]
        torch.testing.assert_close(found[0, text], expected.detach(), atol=1e-6, rtol=1e-4)
    patches = found[:, :, 1:]
    assert (patches > 0).any(dim=-1).float().mean() > 0.5  # a map of nothing but negative slopes is empty
    assert not torch.allclose(patches[:, 0], patches[:, 1])


def test_plain_gradient_times_activation_would_see_nothing_behind_the_last_block_but_one(model, pictures):
    layer, texts = 4, model.encode(["brain tumor"])
    tokens = tokens_of(model, pictures, layer)
    plain = GradientSaliency(layer)(model.tower, tokens, texts, torch.zeros(1, 1, 1))[:, :, 1:]
    ours = GradientSaliency(layer)(model.tower, tokens, texts, tokens_of(model, pictures[:1] * 0, layer))[:, :, 1:]
    assert plain.max() < 1e-4 * ours.max()


def test_maps_do_not_depend_on_batch_mates(model, pictures):
    texts, tokens = model.encode(["brain tumor", "chair"]), tokens_of(model, pictures, 3)
    blank = tokens_of(model, pictures[:1] * 0, 3)
    together = GradientSaliency(3)(model.tower, tokens, texts, blank)
    alone = [GradientSaliency(3, batch_size=1)(model.tower, each[None], texts[:1], blank) for each in tokens]
    torch.testing.assert_close(torch.cat(alone), together[:, :1], atol=1e-6, rtol=1e-4)
    assert not GradientSaliency(3)(model.tower, blank, texts, blank).any()


def test_wrong_settings_are_refused(model):
    with pytest.raises(ValueError, match="batch_size"):
        GradientSaliency(batch_size=0)
    with pytest.raises(ValueError, match="0 to 4, received 5"):
        GradientSaliency(5)(model.tower, torch.zeros(1, 101, 64), torch.ones(1, 48), torch.zeros(1, 101, 64))
