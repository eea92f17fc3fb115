# SPDX-License-Identifier: Apache-2.0
"""BiomedCLIP from a local folder in the published layout: loading, tokenizer, pictures, maps."""

from __future__ import annotations

import json
import shutil
import socket

import open_clip
import pytest
import torch

from custom.components import load_component
from custom.localizers.base import Localizer
from custom.localizers.parts import altered, when_empty
from custom.localizers.pretrained import MissingWeightsError
from custom.localizers.vision_language.biomedclip import BIOMEDCLIP, BiomedClipBottleneck, BiomedClipGradient
from custom.localizers.vision_language.open_clip_model import OpenClipModel, _bert_config
from tests.localizers.vision_language import tiny_open_clip as tiny

PROMPTS = ["brain tumor", "left lung"]
NULL = "tumors of the brain"  # with these random weights, the scan speaks for both prompts rather than for this
FAST = {"layer": 3, "draws": 2, "steps": 4, "null_prompt": NULL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny_model(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return OpenClipModel(folder, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args, **_keywords):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def scan(seed=0, shape=(90, 120)):
    """A dark scan ``[1, X, Y]`` with a bright, structured patch."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.1 * torch.rand((1, *shape), generator=generator)
    image[:, 20:50, 10:35] += 1 + torch.rand((1, 30, 25), generator=generator)
    return image


def test_the_weights_of_the_folder_are_loaded(folder, model, tmp_path):
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    loaded = model.tower.trunk.state_dict()
    assert all(torch.equal(loaded[name], state[f"visual.trunk.{name}"]) for name in loaded)
    safe = OpenClipModel(tiny.save_tiny_model(tmp_path / "safe", safetensors=True), torch.device("cpu"))
    torch.testing.assert_close(safe.encode(PROMPTS), model.encode(PROMPTS))


def test_text_is_read_by_the_real_tokenizer_and_padding_changes_nothing(model):
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model.folder}")
    ids = tokenizer(["Brain  TUMORS", "zebra"], context_length=32)
    vocabulary = (model.folder / "vocab.txt").read_text().split()
    assert [vocabulary[index] for index in ids[0][:6]] == ["[CLS]", "brain", "tumor", "##s", "[SEP]", "[PAD]"]
    assert [vocabulary[index] for index in ids[1][:4]] == ["[CLS]", "[UNK]", "[SEP]", "[PAD]"]
    with torch.no_grad():
        padded = model._text(ids)
    torch.testing.assert_close(model.encode(["Brain  TUMORS", "zebra"]), padded, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(padded[0], padded[1])
    assert model.encode(["brain " * 500]).shape == (1, 48)


def test_pictures_are_normalised_as_the_config_says(model):
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand((1, 3, tiny.SIDE, tiny.SIDE), generator=generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiny.MEAN, tiny.STD))
    torch.testing.assert_close(model.prepare(picture), (picture - mean) / std, atol=1e-5, rtol=1e-5)
    larger = model.prepare(picture.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert larger.shape == picture.shape
    assert float((larger * std + mean - picture).abs().mean()) < 0.1


@pytest.mark.parametrize("scale", ["evidence", "minmax"])
@pytest.mark.parametrize("kind", [BiomedClipBottleneck, BiomedClipGradient])
def test_maps_of_a_scan(folder, kind, scale):
    options = {**(FAST if kind is BiomedClipBottleneck else {"layer": 3, "null_prompt": NULL}), "scale": scale}
    localizer = kind(folder, **options)
    assert isinstance(localizer, Localizer)
    maps = localizer.localize(scan(), PROMPTS)
    assert maps.shape == (2, 90, 120)
    assert maps.dtype == torch.float32
    assert ((maps >= 0) & (maps <= 1)).all()
    assert maps.any()
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps, kind(folder, **options).localize(scan(), PROMPTS))
    if scale == "minmax":
        assert maps.amin(dim=(1, 2)).tolist() == [0, 0]
        torch.testing.assert_close(maps.amax(dim=(1, 2)), torch.ones(2))


@pytest.mark.parametrize("kind", [BiomedClipBottleneck, BiomedClipGradient])
def test_nothing_to_see_gives_nothing(folder, kind):
    localizer = kind(folder, layer=3)
    for value in (0.0, 0.4):
        assert not localizer.localize(torch.full((1, 60, 50), value), PROMPTS).any()
    assert not localizer.localize(scan(), [localizer.null_prompt]).any()
    assert localizer.localize(scan(), []).shape == (0, 90, 120)


def test_the_map_is_the_published_one_times_the_evidence(folder):
    stretched = BiomedClipBottleneck(folder, scale="minmax", **FAST).localize(scan(), PROMPTS)
    honest = BiomedClipBottleneck(folder, floor=0, **FAST).localize(scan(), PROMPTS)
    level = honest.amax(dim=(1, 2), keepdim=True)
    assert ((level > 0) & (level < 1)).all()
    torch.testing.assert_close(honest, stretched * level, atol=1e-4, rtol=0)
    floored = BiomedClipBottleneck(folder, floor=100, **FAST).localize(scan(), PROMPTS)
    assert floored.max() < 0.2 * honest.max()


def test_the_map_lies_where_the_picture_lies(folder, monkeypatch):
    """Saliency in the upper right corner of the picture is there in the scan, whatever the scan's shape."""
    localizer = BiomedClipGradient(folder, layer=3, scale="minmax")
    marked = torch.zeros(1, 1, 1 + tiny.GRID**2)
    # of the square picture, rows 3 to 6 are the scan: 40 high, 100 wide
    marked[0, 0, 1 + 3 * tiny.GRID + tiny.GRID - 1] = 1
    monkeypatch.setattr(localizer, "saliency", lambda *_: marked)
    found = localizer.localize(scan(shape=(100, 40)), PROMPTS[:1])[0]
    peak = divmod(int(found.argmax()), 40)
    assert peak[0] > 90
    assert peak[1] < 10


def test_a_map_that_evidence_put_to_zero_comes_with_its_log_odds_and_what_to_try(folder, caplog):
    """Where evidence is not calibrated, good prompts may end at zero: that is not to happen without a word."""
    localizer = BiomedClipGradient(folder, layer=3, null_prompt=PROMPTS[0])
    found = localizer.localize(scan(), [NULL, PROMPTS[1]])
    lost = NULL if not found[0].any() else PROMPTS[1]
    assert not found[[NULL, PROMPTS[1]].index(lost)].any()
    (record,) = [each for each in caplog.records if each.args and each.args[0] == lost]
    assert "log-odds -" in record.getMessage()
    assert "{scale: minmax}" in record.getMessage()
    caplog.clear()
    localizer.localize(scan(), [lost])
    assert not caplog.records  # once a phrase
    assert altered(localizer, *when_empty(localizer)).localize(scan(), [lost]).any()
    assert when_empty(BiomedClipGradient(folder, scale="minmax")) is None


def test_batches_of_pictures_equal_single_ones(folder):
    localizer = BiomedClipBottleneck(folder, **FAST)
    pictures = torch.stack([scan(seed).expand(3, -1, -1) / 2 for seed in range(3)])
    pictures[1] = 0.3
    together = localizer.localize_pictures(pictures, PROMPTS)
    assert not together[1].any()
    for each, expected in zip(pictures, together, strict=True):
        torch.testing.assert_close(localizer.localize_pictures(each[None], PROMPTS)[0], expected, atol=1e-4, rtol=0)


def test_the_description_tells_maps_apart(folder, tmp_path):
    first = BiomedClipBottleneck(folder)
    json.dumps(first.describe())
    assert BiomedClipBottleneck(folder, batch_size=3).describe() == first.describe()
    other = shutil.copytree(folder, tmp_path / "other")
    state = torch.load(other / "open_clip_pytorch_model.bin", weights_only=True)
    state["logit_scale"] += 1
    torch.save(state, other / "open_clip_pytorch_model.bin")
    changed = [
        BiomedClipBottleneck(folder, beta=2.0),
        BiomedClipBottleneck(folder, seed=1),
        BiomedClipBottleneck(folder, scale="minmax"),
        BiomedClipBottleneck(folder, floor=0.2),
        BiomedClipBottleneck(folder, null_prompt="chair"),
        BiomedClipBottleneck(other),
        BiomedClipGradient(folder),
        BiomedClipGradient(folder, layer=4),
    ]
    descriptions = [json.dumps(each.describe()) for each in (first, *changed)]
    assert len(set(descriptions)) == len(descriptions)


def test_missing_files_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match=r"empty holds no weights.*784 MB"):
        BiomedClipBottleneck(tmp_path / "empty")
    for name, message in (("open_clip_config.json", "missing"), ("tokenizer", "tokenizer cannot be read")):
        partial = shutil.copytree(folder, tmp_path / name)
        for file in [*partial.glob(f"{name}*"), *(partial.glob("vocab.txt") if name == "tokenizer" else ())]:
            file.unlink()
        with pytest.raises(MissingWeightsError, match=f"{message}.*hf download {BIOMEDCLIP.repo_id}"):
            BiomedClipGradient(partial, layer=3).localize(scan(), PROMPTS)


def test_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=f"hf download {BIOMEDCLIP.repo_id}"):
        BiomedClipBottleneck()


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ValueError, match="evidence, minmax"):
        BiomedClipGradient(folder, scale="loud")
    with pytest.raises(ValueError, match="floor"):
        BiomedClipBottleneck(folder, floor=-1)
    with pytest.raises(ValueError, match="0 to 4"):
        BiomedClipBottleneck(folder, layer=5).localize(scan(), PROMPTS)


def test_the_sizes_of_the_published_text_tower_are_those_of_bert_base(folder):
    from transformers import BertConfig

    start = "text.transformer."
    shapes = {
        f"{start}embeddings.word_embeddings.weight": (30522, 768),
        f"{start}embeddings.position_embeddings.weight": (512, 768),
        f"{start}embeddings.token_type_embeddings.weight": (2, 768),
        **{f"{start}encoder.layer.{layer}.intermediate.dense.weight": (3072, 768) for layer in range(12)},
    }
    assert _bert_config(shapes, folder).to_dict() == BertConfig().to_dict()
    with pytest.raises(ValueError, match="no BERT"):
        _bert_config({}, folder)


@pytest.mark.parametrize("name", ["biomedclip", "biomedclip_gradient"])
def test_shipped_configs(configs, folder, name):
    localizer = load_component(configs / "localizers", name, {"source": str(folder), "layer": 3})
    assert localizer.localize(scan(), PROMPTS).shape == (2, 90, 120)
    published = load_component(configs / "localizers", name, {"source": str(folder)}).describe()["saliency"]
    assert published["layer"] == (7 if name == "biomedclip" else 9)
