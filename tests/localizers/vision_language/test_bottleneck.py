# SPDX-License-Identifier: Apache-2.0
"""The information bottleneck, against a slow plain implementation and on towers whose answer is known."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom.localizers.vision_language.bottleneck import InformationBottleneck, information
from custom.localizers.vision_language.open_clip_model import OpenClipModel
from custom.localizers.vision_language.scale import stretch
from custom.localizers.vision_language.towers import TimmTower
from tests.localizers.vision_language import tiny_open_clip as tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.save_tiny_model(tmp_path_factory.mktemp("weights") / "model")
    return OpenClipModel(folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(3)
    return F.interpolate(torch.randn((3, 3, 12, 12), generator=generator), size=tiny.SIDE, mode="bicubic")


@pytest.fixture(scope="module")
def texts(model):
    return model.encode(["brain tumor", "chair"])


def plain_map(tower, picture, text, method):
    """The published way: the whole model in every step, a hook behind the block, autograd down to alpha."""
    generator = torch.Generator().manual_seed(method.seed)
    with torch.no_grad():
        shape = tower.prefix(picture[None], method.layer)[0].shape
    alpha = nn.Parameter(torch.full(shape, 5.0))
    optimizer = torch.optim.Adam([alpha], lr=method.lr)
    kept = {}

    def bottleneck(_module, _inputs, tokens):
        passed, left = torch.sigmoid(alpha), 1 - torch.sigmoid(alpha)
        mean, variance = passed * tokens, (left**2).expand_as(tokens)
        kept["kl"] = -0.5 * (1 + variance.log() - mean**2 - variance)
        return mean + variance.sqrt() * torch.randn(tokens.shape, generator=generator)

    hook = tower.trunk.blocks[method.layer].register_forward_hook(bottleneck)
    for _ in range(method.steps):
        optimizer.zero_grad()
        features = tower.head(tower.trunk(picture.expand(method.draws, -1, -1, -1)))
        fit = F.cosine_similarity(features, text[None], eps=1e-6).mean()
        (method.beta * kept["kl"].mean() - fit).backward()
        optimizer.step()
    hook.remove()
    return kept["kl"].mean(dim=0).detach().sum(dim=-1)


def run(method, tower, pictures, texts, wanted=None):
    with torch.no_grad():
        tokens = tower.prefix(pictures, method.layer).float()
    return method(tower, tokens, texts, wanted)


def as_maps(nats):
    return stretch(nats[..., 1:].unflatten(-1, (tiny.GRID, tiny.GRID)))


@pytest.mark.parametrize(("layer", "beta"), [(1, 0.1), (3, 2.0), (4, 0.1)])
def test_it_equals_the_plain_implementation(model, pictures, texts, layer, beta):
    method = InformationBottleneck(beta=beta, layer=layer, draws=3, seed=5)
    found = run(method, model.tower, pictures[:2], texts)
    for picture in range(2):
        for text in range(2):
            expected = plain_map(model.tower, pictures[picture], texts[text], method)
            torch.testing.assert_close(as_maps(found[picture, text]), as_maps(expected), atol=1e-4, rtol=0)
            torch.testing.assert_close(found[picture, text], expected, atol=1e-2, rtol=1e-3)


def test_maps_depend_on_neither_batch_mates_nor_batch_size(model, pictures, texts):
    together = run(InformationBottleneck(layer=3, draws=4), model.tower, pictures, texts)
    for batch_size in (1, 3, 9):
        method = InformationBottleneck(layer=3, draws=4, batch_size=batch_size)
        alone = [run(method, model.tower, picture[None], texts[:1]) for picture in pictures]
        torch.testing.assert_close(as_maps(torch.cat(alone)), as_maps(together[:, :1]), atol=1e-5, rtol=0)


def test_half_precision_changes_little(model, pictures, texts):
    method = InformationBottleneck(layer=3, draws=4)
    exact = as_maps(run(method, model.tower, pictures[:1], texts))
    with torch.autocast("cpu", torch.float16):
        half = as_maps(run(method, model.tower, pictures[:1], texts))
    assert 0 < float((half - exact).abs().max()) < 5e-3


def test_prompt_picture_and_seed_decide_the_map(model, pictures, texts):
    maps = as_maps(run(InformationBottleneck(layer=3, draws=4), model.tower, pictures, texts))
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 0.1
    assert (maps[0] - maps[1]).abs().max() > 0.1
    same = as_maps(run(InformationBottleneck(layer=3, draws=4), model.tower, pictures, texts))
    other = as_maps(run(InformationBottleneck(layer=3, draws=4, seed=1), model.tower, pictures, texts))
    assert torch.equal(maps, same)
    assert not torch.equal(maps, other)


def test_only_what_is_wanted_is_computed(model, pictures, texts):
    method = InformationBottleneck(layer=3, draws=2)
    wanted = torch.tensor([[True, False], [False, False], [True, True]])
    full, part = run(method, model.tower, pictures, texts), run(method, model.tower, pictures, texts, wanted)
    torch.testing.assert_close(as_maps(part)[wanted], as_maps(full)[wanted], atol=1e-5, rtol=0)
    assert not part[~wanted].any()
    none = run(method, model.tower, pictures, texts, torch.zeros(3, 2, dtype=torch.bool))
    assert none.shape == full.shape
    assert not none.any()


def test_weights_get_no_gradients(model, pictures, texts):
    run(InformationBottleneck(layer=3, draws=2, steps=3), model.tower, pictures[:1], texts[:1])
    modules = (model.tower.trunk, model.tower.head)
    assert all(weight.grad is None and not weight.requires_grad for each in modules for weight in each.parameters())


class OneToken:
    """Features are those of one token, but for a constant: the others tell nothing."""

    blocks, grid, extra = 3, (2, 3), 1

    def __init__(self, token):
        self.token, self.calls = token, 0

    def prefix(self, pictures, layer):
        raise AssertionError("the tokens are given")

    def suffix(self, tokens, layer):
        self.calls += 1
        return tokens[:, self.token] + 1


def test_information_stays_where_the_similarity_needs_it():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((1, 7, 16), generator=generator)
    found = InformationBottleneck(layer=0)(OneToken(4), tokens, tokens[:, 4])[0, 0]
    assert found.argmax() == 4
    assert found[4] > 20 * found[torch.arange(7) != 4].max()


def test_the_last_step_needs_no_pass():
    tower = OneToken(1)
    tokens = torch.zeros(1, 7, 16)
    found = InformationBottleneck(layer=0, steps=1)(tower, tokens, torch.ones(1, 16))
    assert tower.calls == 0
    # an open bottleneck on silent tokens: lambda = sigmoid(5) leaves a variance of 4.48e-5
    variance = (1 - torch.sigmoid(torch.tensor(5.0, dtype=torch.float64))) ** 2
    expected = 16 * -0.5 * (1 + variance.log() - variance)
    torch.testing.assert_close(found, torch.full((1, 1, 7), float(expected)), rtol=1e-5, atol=0)
    InformationBottleneck(layer=0, steps=6)(tower, tokens, torch.ones(1, 16))
    assert tower.calls == 5


def test_information_of_known_distributions():
    tokens = torch.tensor([0.0, 2.0])
    assert not information(torch.full((2,), -200.0), tokens).any()  # nothing but noise
    half = information(torch.zeros(2), tokens)  # N(0, 1/4) and N(1, 1/4)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.tensor([0.0, 1.0]), 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(half, expected)
    assert information(torch.full((2,), 40.0), tokens).isfinite().all()  # 1 - lambda would round to 0


@pytest.mark.parametrize("layer", range(5))
def test_both_halves_of_the_tower_make_the_whole(model, pictures, layer):
    tower = model.tower
    with torch.no_grad():
        expected = tower.head(tower.trunk(pictures))
        found = tower.suffix(tower.prefix(pictures, layer), layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_towers_without_a_class_token_to_pool_are_refused():
    vision = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": tiny.SIDE}
    visual = open_clip.model._build_vision_tower(16, open_clip.CLIPVisionCfg(**vision))
    with pytest.raises(ValueError, match="class token"):
        TimmTower(visual)


def test_a_block_must_follow(model, texts):
    for layer in (-1, 5, 7):
        with pytest.raises(ValueError, match=r"0 to 4, received"):
            InformationBottleneck(layer=layer)(model.tower, torch.zeros(1, 101, 64), texts)


@pytest.mark.parametrize("wrong", [{"beta": -1}, {"lr": 0}, {"steps": 0}, {"draws": 0}, {"batch_size": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        InformationBottleneck(**wrong)
