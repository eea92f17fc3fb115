# SPDX-License-Identifier: Apache-2.0
"""study.yaml from scans to verdict, tiny: budgets that are realised, runs that are made once."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from safetensors.torch import load_file

from custom.handlers import read_history
from custom.workflows.study.running import BundleRuns
from datasets.phantoms import ensure_phantoms

SETTINGS = {
    # As the command line hands them over.
    "arms": "[random, region]",
    "ratios": "[0.5]",
    "seeds": "[0]",
    "pretrain_seeds": "[1]",
    "probe": "true",
    "fine_tuning": "false",
    "train_scans": 6,
    "localize_options": "{gate_scans: 2, phrases_per_kind: 1, other_scans: 1, compare_with: []}",
    "pretrain_options": {
        "backbone": "resnet18_narrow",
        "image_size": [32, 32],
        "max_epochs": 1,
        "batch_size": 4,
        "decoder_options": {"width": 8},
    },
    "task": "classify",
    "task_options": "{resamples: 1}",
}


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    counts = {"train": 6, "val": 6, "test": 6}
    return ensure_phantoms("brain_mri", 2, tmp_path_factory.mktemp("scans"), size=32, counts=counts)


def run_study(scans: Path, output: Path, **changes: Any) -> dict[str, Any]:
    workflow = ConfigWorkflow(
        "bundle/configs/study.yaml",
        meta_file="bundle/configs/metadata.json",
        logging_file=False,
        workflow_type="train",
        **{**SETTINGS, "dataset_dir": str(scans), "output_dir": str(output), **changes},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return json.loads((output / "study.json").read_text())


@pytest.fixture(scope="module")
def finished(repository, scans, tmp_path_factory) -> tuple[Path, dict[str, Any], str]:
    """A study, its results, and what it logged."""
    output = tmp_path_factory.mktemp("study")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        found = run_study(scans, output)
    logger.removeHandler(handler)
    logger.setLevel(level)
    return output, found, "\n".join(lines)


def test_a_study_from_scans_to_verdict(finished):
    output, found, log = finished
    assert found["missing"] == {}
    with open(output / "study.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["arm"] for row in rows] == ["from scratch", "random", "region"]
    for row in rows:
        metrics = json.loads((Path(row["folder"]) / "metrics.json").read_text())
        assert (metrics["method"], metrics["num_scans"]["train"]) == ("linear probe", 6)
        assert metrics["image_size"] == [32, 32]
        assert float(row["test"]) == metrics["test"]["macro_auroc"]
    assert (output / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "**Linear probe.**" in (output / "study.md").read_text()
    assert "Run 6 of 6: linear probe, region 0.5, seed 0." in log
    assert "Test, " not in log  # told once, in the table


def test_budgets_are_equal_and_place_is_not(finished):
    output, _, _ = finished
    histories = {
        arm: read_history(output / f"{arm}_0.5" / "encoder_seed_1" / "history.csv") for arm in ("random", "region")
    }
    assert all(float(row["hidden_ratio"]) == 0.5 for rows in histories.values() for row in rows)
    hidden = [float(row["region_hidden_ratio"]) for row in histories["region"]]
    background = [float(row["background_hidden_ratio"]) for row in histories["region"]]
    assert hidden[0] > background[0]
    weights = [load_file(output / f"{arm}_0.5" / "encoder_seed_1" / "encoder.safetensors") for arm in histories]
    assert any(not first.equal(second) for first, second in zip(*(each.values() for each in weights), strict=True))


def test_a_finished_study_runs_nothing_again(finished, scans, tmp_path, monkeypatch):
    output, found, _ = finished
    monkeypatch.setattr(BundleRuns, "__call__", lambda *_: pytest.fail("a run was made again"))
    again = run_study(scans, output)
    assert again == found


def test_a_failing_pretraining_names_its_cause(scans, tmp_path):
    """Missing maps stop the arm that needs them; the others have their figures."""
    settings = {**SETTINGS["pretrain_options"], "cell_size": 8}
    empty = tmp_path / "no_maps"
    empty.mkdir()
    found = run_study(scans, tmp_path / "study", region_dir=str(empty), scratch="false", pretrain_options=settings)
    assert {row["arm"]: row["test"] is None for row in found["runs"]} == {"random": False, "region": True}
    cause = found["missing"]["pretraining, region 0.5, seed 1"]
    assert "no_maps" in cause
    assert "localize" in cause
    assert cause in found["missing"]["linear probe, region 0.5, seed 0"]


def test_the_settings_of_the_embedded_study(configs):
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / "study.yaml")))
    for task in ("classify", "detect", "train"):
        parser["task"] = task
        parser.parse(reset=True)
        study = parser.get_parsed_content("study", instantiate=False).get_config()
        assert study["task_options"]["max_epochs"] < 20
        known = ConfigParser.load_config_file(str(configs / f"{task}.yaml"))
        assert set(study["task_options"]) <= set(known)
    assert set(study["pretrain_options"]) <= set(ConfigParser.load_config_file(str(configs / "pretrain.yaml")))
    parser["dataset_dir"] = "my_scans"
    parser.parse(reset=True)
    study = parser.get_parsed_content("study", instantiate=False).get_config()
    assert study["task_options"] == study["pretrain_options"] == {}
    assert study["train_scans"] is None
    assert all(len(line) <= 120 for line in (configs / "study.yaml").read_text().splitlines())
