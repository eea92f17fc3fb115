# SPDX-License-Identifier: Apache-2.0
"""A trained model's own config is run with its recorded settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from custom.tasks.record import write_record
from custom.workflows import TrainedModel

CONFIG = """
channels: 1
dataset_dir: nowhere
model: null
initialize: []
evaluate:
- "$[@channels, @dataset_dir, @model, @options]"
options: {}
"""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "guess.yaml").write_text(CONFIG)
    (folder / "metadata.json").write_text("{}")
    return folder


def model(folder: Path, **settings: object) -> Path:
    path = folder / "model.pt"
    torch.save({}, path)
    write_record(path, {"task": "guessing", "config": "guess", "settings": settings, "decisions": {}})
    return path


def test_settings_of_the_record_then_of_the_run_then_options(tmp_path: Path, configs: Path) -> None:
    path = model(tmp_path, channels=3, dataset_dir="there", options={"a": 1})
    trained = TrainedModel(path, configs, {"dataset_dir": "here", "channels": None}, "{options: {b: true}}")
    assert trained.run("evaluate") == [[3, "here", str(path), {"b": True}]]
    assert trained.run("evaluate") == [[3, "here", str(path), {"b": True}]]


@pytest.mark.parametrize("value", ["$1 + 1", "@dataset_dir", "%other.yaml", {"_target_": "os.system"}, [["$1"]]])
def test_a_record_cannot_run_code(tmp_path: Path, configs: Path, value: object) -> None:
    with pytest.raises(ValueError, match=r"model\.json: .* is an expression"):
        TrainedModel(model(tmp_path, channels=value), configs, {})


def test_names_with_a_sign_of_expressions_inside_are_no_expressions(tmp_path: Path, configs: Path) -> None:
    trained = TrainedModel(model(tmp_path, dataset_dir="/mnt/me@host/scans"), configs, {})
    assert trained.run("evaluate")[0][1] == "/mnt/me@host/scans"


def test_what_is_missing_is_named(tmp_path: Path, configs: Path) -> None:
    with pytest.raises(ValueError, match="Give --model"):
        TrainedModel(None, configs, {})
    with pytest.raises(ValueError, match="One is missing"):
        TrainedModel(tmp_path / "none.pt", configs, {})
    with pytest.raises(ValueError, match="No component 'other'"):
        TrainedModel(model(tmp_path), configs, {}, config="other")


def test_files_of_labels_are_not_looked_for_where_nothing_is_known(tmp_path: Path, configs: Path) -> None:
    config = "coco: null\nmodel: null\ninitialize: []\nevaluate: ['$@coco']\npredict: ['$@coco']\n"
    (configs / "guess.yaml").write_text(config)
    trained = TrainedModel(model(tmp_path, coco="coco_{split}.json"), configs, {"dataset_dir": "elsewhere"})
    assert trained.run("predict") == [None]
    assert trained.run("evaluate") == ["coco_{split}.json"]


def test_a_record_sets_neither_parts_of_the_config_nor_what_only_its_user_may(tmp_path: Path, configs: Path) -> None:
    path = model(
        tmp_path, **{"channels": 3, "backbone": "theirs.yaml", "configs": "theirs", "loss#_target_": "os.system"}
    )
    assert set(TrainedModel(path, configs, {}).settings) == {"channels", "model"}
    assert TrainedModel(path, configs, {}, "{backbone: mine.yaml}").settings["backbone"] == "mine.yaml"


def test_a_record_names_no_files_from_elsewhere(tmp_path: Path, configs: Path) -> None:
    elsewhere = str(tmp_path / "anything.yaml")
    with pytest.raises(ValueError, match=r"asks for the segmenter .*anything.yaml.*--options"):
        TrainedModel(model(tmp_path, segmenter=elsewhere), configs, {})
    trusted = TrainedModel(model(tmp_path, segmenter=elsewhere), configs, {}, options={"segmenter": elsewhere})
    assert trusted.settings["segmenter"] == elsewhere
    write_record(tmp_path / "model.pt", {"task": "guessing", "config": elsewhere, "settings": {}, "decisions": {}})
    with pytest.raises(ValueError, match=r"asks for the config .*--task_config"):
        TrainedModel(tmp_path / "model.pt", configs, {})
