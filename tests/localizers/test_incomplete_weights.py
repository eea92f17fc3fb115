# SPDX-License-Identifier: Apache-2.0
"""Folders and caches that lack a file: the command that helps, never a map."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from custom.localizers.pretrained import MissingWeightsError, find_weights, weights_digest
from custom.localizers.refiners.sam import MedSamRefiner, SamRefiner
from custom.localizers.vision_language.biomedclip import BIOMEDCLIP, BiomedClipGradient
from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from custom.localizers.vision_language.grounding_dino import GroundingDinoLocalizer
from custom.localizers.vision_language.owlv2 import Owlv2Localizer
from custom.localizers.vision_language.sam3 import Sam3Localizer
from tests.localizers import tiny_models
from tests.localizers.vision_language.tiny_open_clip import save_tiny_model

pytest.importorskip("transformers")
WORDS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
LOCALIZERS = {
    "clipseg": (ClipSegLocalizer, tiny_models.tiny_clipseg),
    "grounding_dino": (GroundingDinoLocalizer, tiny_models.tiny_grounding_dino),
    "owlv2": (Owlv2Localizer, tiny_models.tiny_owlv2),
    "sam3": (Sam3Localizer, tiny_models.tiny_sam3),
    "biomedclip": (BiomedClipGradient, save_tiny_model),
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the hub, and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture(scope="module", params=LOCALIZERS)
def made(request, tmp_path_factory):
    kind, build = LOCALIZERS[request.param]
    return kind, build(tmp_path_factory.mktemp("models") / request.param)


def cached(cache: Path, repo_id: str, revision: str, folder: Path) -> Path:
    """Put files where the hub's client keeps a repository."""
    root = cache / f"models--{repo_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    return Path(shutil.copytree(folder, root / "snapshots" / revision))


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return folder


def localize(kind, source):
    options = {"layer": 3} if kind is BiomedClipGradient else {}
    return kind(source, device="cpu", **options).localize(torch.rand(1, 40, 50), ["lung", "brain"])


def published(kind):
    return BIOMEDCLIP if kind is BiomedClipGradient else kind.published


def test_a_folder_without_vocabulary(made, tmp_path):
    """The library would make an empty tokenizer, for which every word is the same."""
    kind, folder = made
    partial = without(shutil.copytree(folder, tmp_path / "partial"), *WORDS)
    with pytest.raises(MissingWeightsError, match="hf download") as caught:
        localize(kind, partial)
    assert published(kind).repo_id in str(caught.value)
    assert "{download: true}" in str(caught.value)


def test_a_cache_without_tokenizer(made, cache):
    kind, folder = made
    model = published(kind)
    without(cached(cache, model.repo_id, model.revision, folder), *WORDS, "tokenizer_config.json")
    with pytest.raises(MissingWeightsError, match=f"hf download {model.repo_id} --revision {model.revision}"):
        localize(kind, None)


@pytest.mark.parametrize("names", [["tokenizer.json"], ["vocab.txt", "vocab.json"]])
def test_a_vocabulary_that_is_cut_off(made, tmp_path, names):
    kind, folder = made
    partial = shutil.copytree(folder, tmp_path / "partial")
    if "tokenizer.json" not in names:
        without(partial, "tokenizer.json")
    for file in (partial / name for name in names if (partial / name).is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(MissingWeightsError, match="hf download"):
        localize(kind, partial)


@pytest.mark.parametrize("made", ["clipseg", "owlv2", "sam3"], indirect=True)
def test_words_without_the_rules_that_join_their_letters(made, tmp_path):
    kind, folder = made
    partial = without(shutil.copytree(folder, tmp_path / "partial"), "tokenizer.json", "merges.txt")
    with pytest.raises(MissingWeightsError, match="hf download"):
        localize(kind, partial)


def test_weights_that_are_cut_off(made, tmp_path):
    kind, folder = made
    partial = shutil.copytree(folder, tmp_path / "partial")
    for file in partial.iterdir():
        if file.suffix in (".safetensors", ".bin"):
            file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(MissingWeightsError, match="hf download"):
        localize(kind, partial)


def test_the_tokenizer_that_open_clip_left_in_the_cache_is_found(cache, tmp_path):
    """open_clip keeps weights and tokenizer of BiomedCLIP in two repositories of the cache."""
    whole = save_tiny_model(tmp_path / "model")
    expected = localize(BiomedClipGradient, whole)
    words = tmp_path / "words"
    words.mkdir()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (whole / name).is_file():
            shutil.move(whole / name, words / name)
    cached(cache, "nobody/that-is-not-on-this-machine", "0" * 40, words)
    assert torch.equal(localize(BiomedClipGradient, whole), expected)


@pytest.mark.parametrize("refiner", [SamRefiner, MedSamRefiner])
def test_weights_in_the_older_format_alone(refiner, tmp_path):
    """Other people's weights of the same class come as pytorch_model.bin, whatever the published ones come as."""
    folder = tiny_models.tiny_sam(tmp_path / "sam")
    scan, coarse = torch.rand(1, 40, 50), torch.zeros(1, 40, 50)
    coarse[0, 10:20, 10:30] = 1
    expected = refiner(source=folder, device="cpu").refine(scan, coarse)
    state = refiner(source=folder, device="cpu").checkpoint.model.state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    assert weights_digest(folder) == weights_digest(
        without(shutil.copytree(folder, tmp_path / "b"), "pytorch_model.bin")
    )
    without(folder, "model.safetensors")
    torch.testing.assert_close(refiner(source=folder, device="cpu").refine(scan, coarse), expected, atol=1e-5, rtol=0)


def test_a_download_of_others_weights_takes_the_format_that_is_there(monkeypatch, tmp_path):
    asked = []

    def snapshot(repo_id, revision, allow_patterns, local_files_only):
        asked.append(allow_patterns)
        (tmp_path / "found").mkdir(exist_ok=True)
        if "pytorch_model*.bin" in allow_patterns:
            (tmp_path / "found" / "pytorch_model.bin").write_bytes(b"weights")
        return str(tmp_path / "found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_weights(SamRefiner.published, "other/sam", download=True) == tmp_path / "found"
    assert len(asked) == 2
    monkeypatch.undo()
    with pytest.raises(MissingWeightsError, match=r"hf download other/sam .*'pytorch_model\*\.bin'"):
        find_weights(SamRefiner.published, "other/sam")
