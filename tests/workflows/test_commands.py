# SPDX-License-Identifier: Apache-2.0
"""Commands to paste mean what was put into them."""

from __future__ import annotations

import shlex

import pytest

from custom.workflows.commands import run_command


@pytest.mark.parametrize("value", ["D", "my scans", "it's", 'a "b" $c', "['left lung', 'right lung']", "back\\slash"])
def test_the_shell_gives_back_what_was_put_in(value):
    words = shlex.split(run_command({"dataset_dir": value, "seed": "0"}))
    assert words == ["python", "-m", "monai.bundle", "run", "--dataset_dir", value, "--seed", "0"]
