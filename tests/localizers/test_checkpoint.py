# SPDX-License-Identifier: Apache-2.0
"""Published models of the transformers library: found, loaded once, frozen, or refused with a reason."""

from __future__ import annotations

import shutil

import pytest
import torch

from custom.localizers.checkpoint import Checkpoint
from custom.localizers.pretrained import MissingWeightsError
from custom.localizers.refiners.sam import SamRefiner
from tests.localizers.tiny_models import tiny_clipseg, tiny_sam

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sam(tmp_path_factory.mktemp("models") / "sam")


def checkpoint(source, **options) -> Checkpoint:
    return Checkpoint(SamRefiner.published, "SamModel", "SamProcessor", source, device="cpu", **options)


def test_is_loaded_once_when_needed_and_frozen(folder):
    found = checkpoint(folder)
    assert "model" not in vars(found)
    model = found.model
    assert found.model is model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_describes_the_content_not_the_place(folder, tmp_path):
    description = checkpoint(folder).describe()
    assert set(description) == {"model", "weights"}
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert checkpoint(moved).describe() == description


def test_half_precision_is_for_gpus(folder):
    with checkpoint(folder).half_precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_weights_of_another_model_are_refused(tmp_path):
    other = tiny_clipseg(tmp_path / "clipseg")
    with pytest.raises(MissingWeightsError, match=r"cannot be loaded as SamModel .*facebook/sam-vit-base"):
        _ = checkpoint(other).model


def test_missing_weights_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(key for key in sorted(weights) if key.startswith("mask_decoder"))
    save_file({key: value for key, value in weights.items() if key != name}, broken / "model.safetensors")
    with pytest.raises(MissingWeightsError, match=f"1 of its weights are missing, for example {name}"):
        _ = checkpoint(broken).model


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_missing_files_are_named(folder, tmp_path, name):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / name).unlink()
    with pytest.raises(MissingWeightsError, match=r"\*\.json.*as published"):
        _ = checkpoint(broken).model, checkpoint(broken).processor
