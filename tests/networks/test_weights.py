# SPDX-License-Identifier: Apache-2.0
"""Encoder files: what is written can be read, by us and by plain MONAI, and what is wrong is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks import nets
from safetensors.torch import load_file

from custom.networks import EncoderSpec, encoder_record, file_hash, load_encoder, load_weights, save_encoder
from custom.networks.weights import is_own_encoder, match_encoder

SPEC = EncoderSpec(
    "monai.networks.nets.resnet10",
    ["layer1", "layer2", "layer3", "layer4"],
    2,
    channel_argument="n_input_channels",
    arguments={"conv1_t_stride": 2, "widen_factor": 0.125, "feed_forward": False},
)


@pytest.fixture
def saved(tmp_path):
    encoder = SPEC.build()
    return encoder, save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, SPEC, {"prompts": ["brain tumor"]})


def test_round_trip(saved):
    encoder, path = saved
    loaded = load_encoder(path)
    for name, value in encoder.plain_state_dict().items():
        assert torch.equal(loaded.plain_state_dict()[name], value)
    assert encoder_record(path)["prompts"] == ["brain tumor"]
    assert encoder_record(path)["sha256"] == file_hash(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_weights_load_strictly_into_plain_monai(saved):
    _, path = saved
    plain = nets.resnet10(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.125, feed_forward=False)
    plain.load_state_dict(load_file(path), strict=True)


def test_a_checkpoint_of_torch_loads_too(saved, tmp_path):
    encoder, _ = saved
    torch.save({"model": encoder.network.state_dict()}, tmp_path / "model.pt")
    report = load_weights(loaded := SPEC.build(), tmp_path / "model.pt")
    assert report.prefix == "model."
    assert not report.missing
    assert torch.equal(loaded.network.conv1.weight, encoder.network.conv1.weight)


def test_nothing_fits_is_an_error(saved):
    _, path = saved
    other = EncoderSpec("monai.networks.nets.SegResNet", ["down_layers.0", "down_layers.1"], 2)
    with pytest.raises(ValueError, match=r"encoder\.safetensors: no key fits SegResNet: 0 keys matched"):
        load_weights(other.build(), path)


def test_what_fits_is_known_before_anything_is_loaded(saved):
    encoder, path = saved
    assert match_encoder(path, SPEC) == load_weights(encoder, path)
    with pytest.raises(ValueError, match="of another network"):
        match_encoder(path, replace(SPEC, arguments={**SPEC.arguments, "widen_factor": 0.25}))


def test_an_encoder_of_this_project_is_known_by_its_record(saved):
    _, path = saved
    assert is_own_encoder(path)
    path.with_suffix(".json").unlink()
    assert not is_own_encoder(path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no record", "bad record"])
def test_damaged_files_are_named(saved, damage):
    _, path = saved
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: 100 if damage == "truncated" else 0])
    elif damage == "no record":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text('{"encoder": ')
    with pytest.raises(ValueError, match=r"encoder\.(safetensors|json)"):
        load_encoder(path)


def test_a_record_cannot_build_anything_else(saved):
    _, path = saved
    record = json.loads(path.with_suffix(".json").read_text())
    record["encoder"]["network"] = "os.system"
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"asks to build 'os\.system'"):
        load_encoder(path)


@pytest.mark.parametrize(
    "part",
    [{"arguments": {"x": "$print()"}}, {"arguments": {"_target_": "os.system"}}, {"channel_argument": "_target_"}],
)
def test_a_record_holds_no_expression(saved, part):
    _, path = saved
    record = json.loads(path.with_suffix(".json").read_text())
    record["encoder"].update(part)
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"encoder\.json: .* is an expression"):
        load_encoder(path)


def test_a_failed_write_leaves_the_earlier_file(saved, monkeypatch):
    encoder, path = saved
    before = path.read_bytes()

    def full_disk(weights, target, **_):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("custom.networks.weights.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(path, encoder, SPEC)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


def test_a_specification_survives_json():
    assert EncoderSpec(**json.loads(json.dumps(SPEC.as_dict()))).as_dict() == SPEC.as_dict()
