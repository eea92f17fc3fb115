# SPDX-License-Identifier: Apache-2.0
"""The gate as a user runs it: beside the maps, alone, and heard by pretraining."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from custom.masking import RegionMasking, RegionMatchedRandom
from datasets.phantoms import ensure_phantoms


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return ensure_phantoms("brain_mri", 2, tmp_path_factory.mktemp("heads"), counts={"train": 3, "val": 1, "test": 1})


@pytest.fixture(scope="module")
def chests(tmp_path_factory) -> Path:
    return ensure_phantoms("chest_xray", 2, tmp_path_factory.mktemp("chests"), counts={"train": 3, "val": 1, "test": 1})


def run(configs, files, heads, chests, output, **overrides):
    options = {"prompt": "brain tumor", "gate_scans": 2, "phrases_per_kind": 2, "other_dirs": [str(chests)]}
    workflow = ConfigWorkflow(
        config_file=[str(configs / file) for file in files],
        workflow_type="inference",
        logging_file=False,
        dataset_dir=str(heads),
        output_dir=str(output),
        **{**options, **overrides},
    )
    workflow.initialize()
    workflow.run()
    return json.loads((output / "gate.json").read_text())


def pretraining(configs, heads, regions, **overrides):
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / "pretrain.yaml")))
    options = {"dataset_dir": str(heads), "prompt": "brain tumor", "region_dir": str(regions), "device": "cpu"}
    for name, value in {**options, **overrides}.items():
        parser[name] = value
    return parser


def test_beside_the_maps(configs, heads, chests, tmp_path):
    gate = run(configs, ["localize.yaml"], heads, chests, tmp_path, split="train")
    found = gate["prompts"]["brain tumor"]
    assert found["verdict"] in ("use", "use with care")
    assert gate["scans"] == 2
    assert gate["dataset"] == str(heads)
    assert found["measures"]["truth"]["recall"] > 0  # the phantoms have masks
    assert found["measures"]["other_scans"] == 4
    assert len(list((tmp_path / "maps").rglob("brain_tumor.png"))) == 3
    strategy = pretraining(configs, heads, tmp_path).get_parsed_content("heeded").strategy
    assert type(strategy) is RegionMasking


def test_alone(configs, heads, chests, tmp_path):
    gate = run(configs, ["localize.yaml", "gate.yaml"], heads, chests, tmp_path, localizer="disc")
    assert gate["prompts"]["brain tumor"]["verdict"] == "do not use"
    assert gate["prompts"]["brain tumor"]["measures"]["agreement"].keys() == {"concept"}
    assert not (tmp_path / "maps").exists()


def test_pretraining_heeds_it(configs, heads, chests, tmp_path):
    run(configs, ["localize.yaml"], heads, chests, tmp_path, localizer="disc")
    parser = pretraining(configs, heads, tmp_path)
    heeded = parser.get_parsed_content("heeded")
    assert type(heeded.strategy) is RegionMatchedRandom
    assert parser.get_parsed_content("train#masks").strategy is heeded.strategy
    assert parser.get_parsed_content("validate#masks").strategy is heeded.strategy
    overruled = pretraining(configs, heads, tmp_path, heed_gate="false").get_parsed_content("heeded")
    assert type(overruled.strategy) is RegionMasking
    assert overruled.verdicts == {"brain tumor": "do not use"}


def test_no_test_scan_is_looked_at(configs, heads):
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / "localize.yaml")))
    for name, value in {"dataset_dir": str(heads), "prompt": "brain tumor", "gate_scans": 100}.items():
        parser[name] = value
    assert len(parser.get_parsed_content("items")) == 5
    assert len(parser.get_parsed_content("gate#scans")) == 4
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / "localize.yaml")))
    for name, value in {"dataset_dir": str(heads), "prompt": "brain tumor", "split": "test"}.items():
        parser[name] = value
    assert len(parser.get_parsed_content("gate#scans")) == 1  # unless the user asks for nothing else


def test_no_gate_wanted(configs, heads, chests, tmp_path):
    with pytest.raises(FileNotFoundError):
        run(configs, ["localize.yaml"], heads, chests, tmp_path, gate_scans=0, localizer="body")
    assert (tmp_path / "summary.json").exists()


def test_volumes(configs, tmp_path):
    import nibabel

    (tmp_path / "D").mkdir()
    for index in range(2):
        values = np.random.default_rng(index).normal(100, 20, (14, 12, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "D" / f"{index}.nii.gz")
    gate = run(configs, ["localize.yaml"], tmp_path / "D", tmp_path / "D", tmp_path / "O", localizer="disc")
    assert gate["prompts"]["brain tumor"]["measures"]["truth"] is None


def test_a_mistaken_rule_is_named(configs, heads, chests, tmp_path, raises_cause):
    with raises_cause("no rule 'strict'"):
        run(configs, ["localize.yaml"], heads, chests, tmp_path, rules={"strict": 1})


def test_colour_pictures(configs, chests, tmp_path):
    (tmp_path / "D").mkdir()
    for index in range(2):
        values = torch.randint(0, 255, (20, 24, 3), generator=torch.Generator().manual_seed(index)).numpy()
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "D" / f"{index}.png")
    gate = run(configs, ["localize.yaml"], tmp_path / "D", chests, tmp_path / "O", localizer="body", channels=3)
    assert gate["scans"] == 2
