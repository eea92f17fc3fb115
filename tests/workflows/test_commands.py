# SPDX-License-Identifier: Apache-2.0
"""Commands to paste mean what was put into them."""

from __future__ import annotations

import shlex

import pytest

from custom.workflows.commands import run_command, task_command
from datasets import Datalist


@pytest.mark.parametrize("value", ["D", "my scans", "it's", 'a "b" $c', "['left lung', 'right lung']", "back\\slash"])
def test_the_shell_gives_back_what_was_put_in(value):
    words = shlex.split(run_command({"dataset_dir": value, "seed": "0"}))
    assert words == ["python", "-m", "monai.bundle", "run", "--dataset_dir", value, "--seed", "0"]


@pytest.mark.parametrize(
    ("labels", "config", "scans"),
    [
        ({"label_name": "tumor", "label": 0, "mask": "m.png"}, "classify", "D"),
        ({"mask": "m.png"}, "train", "D"),
        ({"boxes": [[0, 0, 2, 2]]}, "detect", "D"),
        ({}, "classify", "<folder of labelled scans>"),
    ],
)
def test_the_next_step_is_one_that_the_labels_are_for(labels, config, scans):
    datalist = Datalist("D", "manifest", [{"image": "a.png", "scan_id": "a", **labels}], [], 2)
    words = shlex.split(task_command("configs", "O/encoder.safetensors", "D", datalist).removeprefix("Next: "))
    options = ["--config_file", f"configs/{config}.yaml", "--encoder", "O/encoder.safetensors", "--dataset_dir", scans]
    assert words == ["python", "-m", "monai.bundle", "run", *options]
