# SPDX-License-Identifier: Apache-2.0
"""Tasks take over how their encoder saw scans, trained models follow their record, and differences are named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from custom.components import load_component
from custom.networks import save_encoder
from custom.preprocessing import (
    Preprocessing,
    check_empty_cells,
    compare_with_encoder,
    encoder_contract,
    inherited,
    make_contract,
    model_contract,
)
from custom.tasks.record import write_record

CT = {"scheme": "window", "window": [-1000, 400]}
PREPARED = Preprocessing.of(
    channels=3, frame=1, spacing=[1, 1, 2], intensity=CT, crop_to_body=False, air_threshold=0.1, image_size=[32, 40, 16]
)
TASKS = ("classify", "detect", "train")
OLD = {"masking": "region", "spacing": [2, 2, 2], "image_size": [32, 40, 16], "crop_to_body": True}
ADJUST = {"_target_": "AdjustContrastd", "keys": "image", "gamma": 0.5}


@pytest.fixture
def encoder(configs: Path, tmp_path: Path) -> Callable[..., str]:
    """Makes an encoder's two files with a record."""

    def make(**record: Any) -> str:
        spec = load_component(configs / "encoders", "resnet10_narrow", spatial_dims=3, in_channels=3)
        torch.manual_seed(0)
        return str(save_encoder(tmp_path / "encoder.safetensors", spec.build(), spec, record))

    return make


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    """Makes a trained model's two files with a record."""

    def make(settings: dict | None = None, **record: Any) -> str:
        torch.save({}, tmp_path / "model.pt")
        content = {"task": "any", "config": "any", "settings": settings or {}, "decisions": {}}
        write_record(tmp_path / "model.pt", {**content, **record})
        return str(tmp_path / "model.pt")

    return make


def resolved(configs: Path, config: str, **settings: Any) -> Preprocessing:
    """The contract of a run of a shipped config."""
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / f"{config}.yaml")))
    parser.update({"spatial_dims": 3, "bundle_root": str(configs.parent), **settings})
    found: Preprocessing = parser.get_parsed_content("contract")
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_over_all_of_it_and_says_so(
    configs: Path, encoder: Callable, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = encoder(preprocessing=PREPARED.record(), masking="region")
    contract = resolved(configs, task, encoder=path)
    assert contract == PREPARED
    with caplog.at_level(logging.INFO):
        assert compare_with_encoder(contract, path) == {}
    (line,) = caplog.messages
    assert line.startswith("Scans are prepared as for the encoder: frame 1, 3 channels, resampled to 1 x 1 x 2 mm,")


@pytest.mark.parametrize("task", TASKS)
def test_what_a_user_asks_for_holds_and_is_named(
    configs: Path, encoder: Callable, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = encoder(preprocessing=PREPARED.record(), masking="region")
    given = {"intensity": {"scheme": "zscore"}, "crop_to_body": "true", "image_size": [16, 16, 16]}
    contract = resolved(configs, task, encoder=path, **given)
    assert contract.intensity.record["scheme"] == "zscore"
    assert contract.spacing == (1, 1, 2)
    assert set(compare_with_encoder(contract, path)) == {"intensity", "crop_to_body", "image_size"}
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "intensity: recorded window (window [-1000, 400]), given zscore" in line
    assert "crop_to_body: recorded False, given True" in line
    assert "image_size: recorded [32, 40, 16], given [16, 16, 16]" in line


@pytest.mark.parametrize("task", ["detect", "train"])
@pytest.mark.parametrize("record", [{"preprocessing": PREPARED.record()}, OLD], ids=["block", "older"])
def test_patches_do_not_take_over_a_spacing_that_a_box_undid(
    configs: Path, encoder: Callable, task: str, record: dict, caplog: pytest.LogCaptureFixture
) -> None:
    path = encoder(**record)
    contract = resolved(configs, task, encoder=path, patch_size=[16, 16, 16])
    assert contract.spacing is None
    assert (contract.image_size, contract.patch_size) == (None, (16, 16, 16))
    assert {"spacing", "image_size", "patch_size"} == set(compare_with_encoder(contract, path))
    assert "leaves no voxel size to take over: set --spacing" in caplog.text
    asked = resolved(configs, task, encoder=path, patch_size=[16, 16, 16], spacing=[1, 1, 1])
    assert asked.voxel_size == (1, 1, 1)
    of_patches = Preprocessing.of(spacing=1.5, patch_size=[24, 24, 24], channels=3)
    assert resolved(configs, task, encoder=encoder(preprocessing=of_patches.record())) == of_patches


def test_from_scratch_and_with_weights_from_elsewhere_the_defaults_are_those_of_pretraining(
    configs: Path, tmp_path: Path
) -> None:
    torch.save({}, tmp_path / "elsewhere.pt")
    sizes = {"image_size": [32, 32, 32]}
    expected = resolved(configs, "pretrain", **sizes)
    assert expected.intensity == Preprocessing().intensity
    for task in TASKS:
        for path in (None, str(tmp_path / "elsewhere.pt")):
            assert resolved(configs, task, encoder=path, **sizes) == expected
    assert compare_with_encoder(expected, str(tmp_path / "elsewhere.pt")) == {}


def test_pretraining_from_an_encoder_names_what_differs(
    configs: Path, encoder: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    path = encoder(preprocessing=PREPARED.record())
    contract = resolved(configs, "pretrain", encoder=path, image_size=[32, 40, 16], channels=3)
    assert {"frame", "spacing", "intensity", "crop_to_body", "air_threshold"} == set(
        compare_with_encoder(contract, path)
    )
    assert caplog.text.count("was pretrained on scans that were prepared in another way") == 1


def test_encoders_older_than_the_block(encoder: Callable, caplog: pytest.LogCaptureFixture) -> None:
    path = encoder(**OLD)
    assert encoder_contract(path) == Preprocessing.of_old_record({**OLD, "channels": 3})
    caplog.set_level(logging.INFO)
    assert compare_with_encoder(inherited(path), path) == {}
    assert "does not tell how grey levels were scaled: taken is percentile (lower 0.5, upper 99.5)" in caplog.text
    assert "was made from scans that were cut where they stood out of the box [32, 40, 16]" in caplog.text
    # Those of a pretraining that knew no crop were not cropped; what no pretraining wrote says nothing.
    assert [encoder_contract(encoder(**facts)).crop_to_body for facts in ({"masking": "region"}, {})] == [False, True]


@pytest.mark.parametrize("task", TASKS)
def test_a_trained_model_is_followed_and_what_differs_is_refused(
    configs: Path, model: Callable, task: str, raises_cause: Callable
) -> None:
    path = model(preprocessing=PREPARED.record())
    assert resolved(configs, task, model=path) == PREPARED
    same = {"intensity": {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1000, "a_max": 400, "b_min": 0,
                          "b_max": 1, "clip": True}, "spacing": [1, 1, 2]}  # fmt: skip
    assert resolved(configs, task, model=path, **same) == PREPARED
    with raises_cause(r"image_size: recorded \[32, 40, 16\], given \[16, 16, 16\]"):
        resolved(configs, task, model=path, image_size=[16, 16, 16])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("intensity", "percentile", r"intensity: recorded window \(window \[-1000, 400\]\), given percentile"),
        ("spacing", None, r"spacing: recorded \[1.0, 1.0, 2.0\], given null"),
        ("channels", 1, "channels: recorded 3, given 1"),
        ("crop_to_body", "true", "crop_to_body: recorded False, given True"),
        ("air_threshold", 0.2, "air_threshold: recorded 0.1, given 0.2"),
        ("patch_size", [16, 16, 16], r"image_size: recorded \[32, 40, 16\], given null; patch_size: recorded null"),
    ],
)
def test_each_difference_from_a_trained_model_is_refused_by_name(
    model: Callable, name: str, value: Any, said: str
) -> None:
    path = model(preprocessing=PREPARED.record())
    assert make_contract(path, **PREPARED.settings()) == PREPARED
    with pytest.raises(ValueError, match=said):
        make_contract(path, **{**PREPARED.settings(), name: value})


def test_another_part_of_the_file_is_named_only(model: Callable, caplog: pytest.LogCaptureFixture) -> None:
    given = {**PREPARED.settings(), "frame": 0}
    assert make_contract(model(preprocessing=PREPARED.record()), **given).frame == 0
    assert "frame: recorded 1, given 0" in caplog.text


def test_models_older_than_the_block(model: Callable, caplog: pytest.LogCaptureFixture, configs: Path) -> None:
    settings = {"channels": 3, "spacing": [1, 1, 2], "frame": None, "crop_to_body": False, "air_threshold": 0.1,
                "image_size": [32, 40, 16], "patch_size": None}  # fmt: skip
    path = model(settings)
    caplog.set_level(logging.INFO)
    contract = resolved(configs, "train", model=path, **settings)
    assert contract.spacing == (1, 1, 2)
    assert "does not tell how grey levels were scaled" in caplog.text
    assert "cut where they stood out of the box" in caplog.text
    assert resolved(configs, "train", model=path, **settings, intensity=CT).intensity.record["scheme"] == "window"
    with pytest.raises(RuntimeError):
        resolved(configs, "train", model=path, **{**settings, "spacing": None})
    patches = {**settings, "patch_size": [16, 16, 16]}
    assert resolved(configs, "train", model=model(patches), **patches).voxel_size == (1, 1, 2)


def test_a_transform_of_ones_own_must_be_given_again(
    configs: Path, model: Callable, encoder: Callable, raises_cause: Callable
) -> None:
    made = resolved(configs, "train", intensity=ADJUST, image_size=[32, 32, 32], channels=3)
    block = json.loads(json.dumps(made.record()))
    assert block["intensity"] == {
        "scheme": "custom", "transform": "monai.transforms.intensity.dictionary.AdjustContrastd",
        "settings": block["intensity"]["settings"],
    }  # fmt: skip
    for source in ({"model": model(preprocessing=block)}, {"encoder": encoder(preprocessing=block)}):
        with raises_cause("AdjustContrastd, which has no plain form.*Give it again: --intensity"):
            resolved(configs, "train", **source)
        assert resolved(configs, "train", intensity=ADJUST, **source) == made
    with raises_cause("given custom .*gamma.*0.6"):
        resolved(configs, "train", model=model(preprocessing=block), intensity={**ADJUST, "gamma": 0.6})


def test_empty_cells_are_told_at_grey_levels_from_0_to_1() -> None:
    for scheme in ("percentile", "minmax", CT):
        check_empty_cells(Preprocessing.of(intensity=scheme), True)
    check_empty_cells(Preprocessing.of(intensity="zscore"), False)
    with pytest.raises(ValueError, match="--intensity zscore gives others"):
        check_empty_cells(Preprocessing.of(intensity="zscore"), True)


def test_damaged_records_are_named(model: Callable, encoder: Callable, tmp_path: Path) -> None:
    for intensity, problem in (
        ({"_target_": "os.system"}, "is an expression"),
        ({"scheme": "magic"}, "intensity: there is no scheme 'magic'"),
    ):
        block = {**PREPARED.record(), "intensity": intensity}
        with pytest.raises(ValueError, match=rf"model\.json: .*{problem}"):
            model_contract(model(preprocessing=block))
        with pytest.raises(ValueError, match=rf"encoder\.json: .*{problem}"):
            encoder_contract(encoder(preprocessing=block))
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.json: cannot be read"):
        model_contract(tmp_path / "model.pt")
    assert model_contract(tmp_path / "absent.pt") is None
