# SPDX-License-Identifier: Apache-2.0
"""Where weights come from, without any network."""

from __future__ import annotations

import pytest

from custom.localizers.pretrained import (
    MissingWeightsError,
    PretrainedModel,
    find_weights,
    weight_files,
    weights_digest,
)

MODEL = PretrainedModel("someone/model", "abc123", "MIT", 784)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No weights of the machine's user, and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def folder_with(tmp_path, name="model.safetensors", content=b"weights"):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_local_folder_is_taken_as_it_is(tmp_path, name):
    folder = folder_with(tmp_path, name)
    assert find_weights(MODEL, folder) == folder
    assert find_weights(MODEL, str(folder)) == folder
    assert [file.name for file in weight_files(folder)] == [name]


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = folder_with(tmp_path, "config.json")
    with pytest.raises(MissingWeightsError, match="holds no weights") as caught:
        find_weights(MODEL, folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("source", [None, "other/model", "other/model@v2"])
def test_what_is_not_there_comes_with_what_to_run(source):
    with pytest.raises(MissingWeightsError) as caught:
        find_weights(MODEL, source)
    message = str(caught.value)
    name = "someone/model@abc123" if source is None else "other/model@" + ("v2" if "@" in source else "main")
    assert name in message
    for part in ("784 MB", "licence: MIT", "{download: true}", "hf download", "--local-dir", "~/.cache/huggingface"):
        assert part in message


def test_a_gated_model_says_where_to_ask():
    gated = PretrainedModel("facebook/sam3", "main", "SAM", 3000, gated=True)
    with pytest.raises(MissingWeightsError, match=r"Ask for access at https://huggingface\.co/facebook/sam3"):
        find_weights(gated)


@pytest.mark.parametrize("source", ["/no/such/folder", "./models/x", "models", "a/b/c"])
def test_what_is_neither_folder_nor_id(source):
    with pytest.raises(MissingWeightsError, match="neither a folder that exists nor a hub id"):
        find_weights(MODEL, source)


def test_only_a_wanted_download_asks_the_hub(monkeypatch, tmp_path):
    asked = []

    def snapshot(repo_id, revision, allow_patterns, local_files_only):
        asked.append((repo_id, revision, local_files_only))
        return str(folder_with(tmp_path))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_weights(MODEL) == tmp_path / "model"
    find_weights(MODEL, "other/model@v2", download=True)
    assert asked == [("someone/model", "abc123", True), ("other/model", "v2", False)]


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = weights_digest(folder_with(tmp_path / "a"))
    assert weights_digest(folder_with(tmp_path / "b", "other.safetensors")) == first
    assert weights_digest(folder_with(tmp_path / "a", content=b"others!")) != first
