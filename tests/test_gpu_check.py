# SPDX-License-Identifier: Apache-2.0
"""The GPU check itself, where there may be no GPU: the comparison runs, and its absence is said."""

from __future__ import annotations

import subprocess
import sys

import torch


def run(repository, *arguments):
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=600)


def test_the_cpu_agrees_with_itself(repository):
    result = run(repository, "--device", "cpu", "--only", "pretrain 2D, SparK")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "worst 0.0e+00" in result.stdout


def test_without_a_gpu_it_says_so(repository):
    if torch.cuda.is_available():
        assert run(repository).returncode == 0
    else:
        result = run(repository)
        assert result.returncode == 2
        assert "No GPU here" in result.stdout
