# SPDX-License-Identifier: Apache-2.0
"""classify.yaml, detect.yaml and train.yaml call the same things by the same names, and explain them alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

TASKS = ("classify", "detect", "train")
# Tasks have data and figures of their own; the linear probe cannot be resumed.
OWN_WORDS = {"dataset_dir", "resume", "key_score", "classes", "class_weights", "recorded_encoder"}


def settings(configs: Path, task: str) -> dict[str, str]:
    """Comments of the top-level settings, in order."""
    text = (configs / f"{task}.yaml").read_text()
    head = text[: text.index("derived from the above")]
    lines = re.findall(r"^(\w+):(.*)$", head, flags=re.MULTILINE)
    return {name: rest.rpartition("# ")[2].strip() if "# " in rest else "" for name, rest in lines}


def parsed(configs: Path, task: str, item: str, **overrides: Any) -> Any:
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / f"{task}.yaml")))
    parser.update(overrides)
    return parser.get_parsed_content(item)


def test_settings_have_the_same_names_and_words(configs: Path) -> None:
    found = {task: settings(configs, task) for task in TASKS}
    shared = set.intersection(*(set(words) for words in found.values()))
    assert len(shared) > 30
    for name in shared - OWN_WORDS:
        assert len({found[task][name] for task in TASKS}) == 1, (name, [found[task][name] for task in TASKS])


@pytest.mark.parametrize("task", TASKS)
def test_lines_fit_on_a_screen(configs: Path, task: str) -> None:
    for name in (task, "evaluate", "inference", "export"):
        long = [line for line in (configs / f"{name}.yaml").read_text().splitlines() if len(line) > 120]
        assert not long, name


@pytest.mark.parametrize("task", TASKS)
def test_training_tests_on_the_test_split(configs: Path, task: str) -> None:
    assert parsed(configs, task, "test#items#split", split="train") == "test"
    assert parsed(configs, task, "test#items#split", split="val", model="model.pt") == "val"


@pytest.mark.parametrize("task", TASKS)
def test_what_evaluate_yaml_calls_as_in_training_is_recorded(configs: Path, task: str) -> None:
    recorded = ConfigParser.load_config_file(str(configs / f"{task}.yaml"))["model_settings"]
    assert {"dataset_dir", "skip_bad", "batch_size", "num_workers", "seed", "resamples"} <= set(recorded)


@pytest.mark.parametrize("name", [*TASKS, "pretrain", "self_teach"])
@pytest.mark.parametrize(("device", "given", "expected"), [("cpu", "true", True), ("cuda", "false", False)])
def test_mixed_precision_means_what_it_says(configs: Path, name: str, device: str, given: str, expected: bool) -> None:
    assert parsed(configs, name, "is_amp", device=device) is not expected  # the default
    assert parsed(configs, name, "is_amp", device=device, amp=given) is expected


@pytest.mark.parametrize("name", [*TASKS, "pretrain", "self_teach"])
def test_switches_are_read_as_switches(configs: Path, name: str) -> None:
    text = (configs / f"{name}.yaml").read_text()
    switches = re.findall(r"^(\w+): (?:true|false)\b", text, flags=re.MULTILINE)
    for switch in [*switches, "amp"]:
        uses = re.findall(rf".*@{switch}\b.*", text)
        assert uses, switch
        assert all(re.match(r"\s+value: ", use) for use in uses), uses


def test_every_command_that_writes_a_folder_holds_it(configs: Path) -> None:
    holding = []
    for file in sorted(configs.glob("*.yaml")):
        config = yaml.safe_load(file.read_text())
        steps = {
            name: [step.get("_target_") for step in config.get(name, []) if isinstance(step, dict)]
            for name in ("initialize", "finalize")
        }
        takes, gives = (
            f"custom.workflows.{name}_output_dir" in steps[when]
            for name, when in (("prepare", "initialize"), ("release", "finalize"))
        )
        assert takes == gives, file
        holding += [file.stem] * takes
    # evaluate.yaml and inference.yaml run a part of a task's config, gate.yaml lies over localize.yaml
    assert holding == ["classify", "detect", "export", "localize", "pack", "pack_localizer", "pretrain", "publish",
                       "self_teach", "study", "train"]  # fmt: skip


# Settings that change neither the network nor what it learns from: where, how fast, how it is measured and shown.
FREE = {
    "dataset_dir", "coco", "label_separator", "output_dir", "publish_to", "resume", "resume_changed", "skip_bad",
    "probe", "num_workers", "patience", "val_interval", "log_interval", "checkpoint_interval", "preview_interval",
    "device", "amp", "threshold_rule", "resamples", "froc_iou", "tolerance", "instances", "min_instance_size",
    "window_overlap", "model", "split", "recorded_encoder", "multi_label", "size_limits", "num_anchors",
    "other_codes", "spatial_dims", "execution", "heed_gate", "prompt",
}  # fmt: skip
# ... and those that are compared by what was made of them.
MADE = {"crop_to_body": "is_cropped", "skip_empty": "is_skipping", "encoder": "encoder_facts"}
MADE |= {"objects": "object_kind", "backbone": "encoder_spec", "detector_options": "options"}


@pytest.mark.parametrize("name", [*TASKS, "pretrain"])
def test_a_resumed_run_is_compared_in_all_that_decides_what_is_learnt(configs: Path, name: str) -> None:
    config = yaml.safe_load((configs / f"{name}.yaml").read_text())
    parts = [config.get(part) for part in ("learnt_with", "contract", *(["facts"] if name == "pretrain" else []))]
    for setting in set(settings(configs, name)) - FREE:
        assert setting in config["learnt_with"] or f"@{MADE.get(setting, setting)}" in str(parts), setting
