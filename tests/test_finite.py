# SPDX-License-Identifier: Apache-2.0
"""Weights that are not finite are refused with the file's name, through every door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from safetensors.torch import load_file, save_file
from torch import nn

from custom.finite import check_finite, first_not_finite
from custom.handlers import ResumeTraining, TrainingCheckpoint
from custom.localizers.operators.finder import build_network, load_finder
from custom.networks import EncoderSpec, file_hash, load_encoder, save_encoder
from custom.networks.weights import load_weights, match_encoder
from custom.tasks import BestModel

SMALL = {"out_channels": 1, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
SPEC = EncoderSpec("monai.networks.nets.SegResNet", ["down_layers.0"], 2, arguments=SMALL)


def spoilt(network: nn.Module) -> nn.Module:
    next(network.parameters()).data.flatten()[0] = torch.inf
    return network


def encoder(folder: Path) -> Path:
    return save_encoder(folder / "encoder.safetensors", spoilt(SPEC.build()), SPEC)


def read_encoder(folder: Path) -> None:
    load_encoder(encoder(folder))


def match_weights_of_an_encoder(folder: Path) -> None:
    match_encoder(encoder(folder), SPEC)


def read_weights_from_elsewhere(folder: Path) -> None:
    torch.save(load_file(encoder(folder)), folder / "theirs.pth")
    load_weights(SPEC.build(), folder / "theirs.pth")


def read_a_model(folder: Path) -> None:
    BestModel(folder / "model.pt", spoilt(nn.Linear(1, 1))).save()
    BestModel(folder / "model.pt", nn.Linear(1, 1)).restore()


def resume(folder: Path) -> None:
    for handler, network in ((TrainingCheckpoint, spoilt(nn.Linear(1, 1))), (ResumeTraining, nn.Linear(1, 1))):
        engine = Engine(lambda engine, batch: None)
        handler(folder / "checkpoints", {"network": network}).attach(engine)
        engine.run([0], max_epochs=1)


def read_self_taught_weights(folder: Path) -> None:
    network = {"class": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1}
    network |= {"channels": [4, 8], "strides": [2]}
    file = folder / "self_taught.safetensors"
    save_file(spoilt(build_network(network)).state_dict(), file)
    record = {"network": network, "spatial_dims": 2, "image_size": [32, 32], "flips": [], "blur": 0.0, "area": "brain"}
    record |= {"modality": "mri", "half": 0.5, "sha256": file_hash(file)}
    file.with_suffix(".json").write_text(json.dumps(record))
    load_finder(file)


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (read_encoder, "encoder.safetensors"),
        (match_weights_of_an_encoder, "encoder.safetensors"),
        (read_weights_from_elsewhere, "theirs.pth"),
        (read_a_model, "model.pt"),
        (resume, "checkpoint_epoch=1.pt"),
        (read_self_taught_weights, "self_taught.safetensors"),
    ],
)
def test_every_door_refuses_them(read: Callable[[Path], None], file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{file}: its weights are not finite"):
        read(tmp_path)


def test_the_first_is_found_wherever_it_is() -> None:
    good = {"a": torch.ones(2), "b": {"c": [torch.zeros(1), torch.arange(3)]}, "name": "text", "none": None}
    assert first_not_finite(good) is None
    assert first_not_finite({}) is None
    good["b"]["c"].append(torch.tensor([1, -torch.inf]))
    assert first_not_finite(good) == "b.c.2"
    with pytest.raises(ValueError, match=r"x\.pt: .*b\.c\.2"):
        check_finite("x.pt", good)
