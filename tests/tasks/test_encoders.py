# SPDX-License-Identifier: Apache-2.0
"""Where a task's encoder comes from, and what is recorded of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from custom.components import load_component
from custom.networks import file_hash, save_encoder
from custom.tasks.encoders import build_encoder, encoder_facts, encoder_spec

ENCODERS = Path("bundle/configs/encoders")
SPEC = load_component(ENCODERS, "resnet18_narrow", spatial_dims=2, in_channels=1)
OWN = """
_target_: custom.networks.EncoderSpec
network: tests.tasks.test_encoders.{name}
features: [stages.0, stages.1]
"""


class PlainNet(nn.Module):
    """A user's own network: two stages, each at half the resolution of the one before."""

    def __init__(self, spatial_dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1))

    def forward(self, image):
        return self.stages(image)


class PlainNetV2(PlainNet):
    """Another class, whose name begins alike."""


def spec_of(path, backbone="resnet18_narrow"):
    return encoder_spec(None, path, ENCODERS, backbone, spatial_dims=2, in_channels=1)


def test_from_scratch():
    assert encoder_facts(None, SPEC) == {}
    assert not torch.equal(
        build_encoder(None, SPEC).network.conv1.weight, build_encoder(None, SPEC).network.conv1.weight
    )


def test_an_encoder_of_this_project_brings_its_network_and_facts(tmp_path):
    encoder = SPEC.build()
    path = save_encoder(tmp_path / "encoder.safetensors", encoder, SPEC, {"image_size": [64, 64]})
    spec = spec_of(path, backbone="resnet50")
    assert spec.as_dict() == SPEC.as_dict()
    assert torch.equal(build_encoder(path, spec).network.conv1.weight, encoder.network.conv1.weight)
    facts = encoder_facts(path, spec)
    assert facts["image_size"] == [64, 64]
    assert facts["encoder_keys"]["share"] == 1
    assert facts == encoder_facts(path)


def test_weights_from_elsewhere_take_the_backbone(tmp_path):
    encoder = SPEC.build()
    path = tmp_path / "model.pt"
    torch.save({"encoder." + name: value for name, value in encoder.network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"task": "segmentation"}))  # the record of a task's model
    spec = spec_of(path)
    assert spec == SPEC
    assert torch.equal(build_encoder(path, spec).network.conv1.weight, encoder.network.conv1.weight)
    facts = encoder_facts(path, spec)
    assert facts["encoder"] == SPEC.as_dict()
    assert facts["sha256"] == file_hash(path)
    assert facts["encoder_keys"]["prefix"] == "encoder."
    json.dumps(facts)


def test_another_backbone_is_refused_before_training(tmp_path):
    torch.save(SPEC.build().network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt: .* ResNet: .*--backbone"):
        encoder_facts(tmp_path / "weights.pt", spec_of(tmp_path / "weights.pt", "resnet18"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pt"):
        encoder_facts(tmp_path / "absent.pt", SPEC)
    with pytest.raises(ValueError, match=r"absent\.pt"):
        build_encoder(tmp_path / "absent.pt", SPEC)


def test_weights_that_changed_since_are_mentioned(tmp_path, caplog):
    path = save_encoder(tmp_path / "encoder.safetensors", SPEC.build(), SPEC)
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, "sha256": "0"}))
    assert encoder_facts(path)["sha256"] == file_hash(path)
    assert "is not the file that its JSON record describes" in caplog.text


@pytest.fixture
def own(tmp_path):
    """A network of one's own: its file for --backbone, and its pretrained weights."""
    file = tmp_path / "own.yaml"
    file.write_text(OWN.format(name="PlainNet"))
    spec = load_component(ENCODERS, str(file), spatial_dims=2, in_channels=1)
    encoder = spec.build()
    return str(file), encoder, save_encoder(tmp_path / "encoder.safetensors", encoder, spec, {"image_size": [8, 8]})


def test_a_class_of_ones_own_is_built_if_the_backbone_names_it(own):
    file, encoder, path = own
    spec = spec_of(path, file)
    assert spec.network == "tests.tasks.test_encoders.PlainNet"
    assert torch.equal(build_encoder(path, spec).network.stages[0].weight, encoder.network.stages[0].weight)
    assert encoder_facts(path, spec)["image_size"] == [8, 8]
    assert encoder_spec(spec.as_dict(), None, ENCODERS, file, spatial_dims=2, in_channels=1) == spec


def test_a_record_alone_never_decides_which_class_is_built(own, tmp_path):
    file, _, path = own
    other = tmp_path / "other.yaml"
    other.write_text(OWN.format(name="PlainNetV2"))
    recorded = spec_of(path, file).as_dict()
    for backbone in ("resnet18", str(other)):
        with pytest.raises(ValueError, match=r"--backbone mine/network\.yaml.*--options"):
            spec_of(path, backbone)
        with pytest.raises(ValueError, match="never decides alone"):
            encoder_spec(recorded, None, ENCODERS, backbone, spatial_dims=2, in_channels=1)
    with pytest.raises(ValueError, match="never decides alone"):
        encoder_facts(path)
    with pytest.raises(ValueError, match="never decides alone"):
        encoder_facts(path, SPEC)
    record = {**recorded, "network": "tests.tasks.test_encoders.PlainNetV2"}
    with pytest.raises(ValueError, match="never decides alone"):
        encoder_spec(record, None, ENCODERS, file, spatial_dims=2, in_channels=1)
