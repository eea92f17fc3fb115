# SPDX-License-Identifier: Apache-2.0
"""The localize command, killed at many moments and resumed, or started twice at once, makes what a whole run makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCANS = 4


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def ended(work, repository) -> dict:
    """How all runs of killing.py ended."""
    program = repository / "tests" / "workflows" / "killing.py"
    options = ["--config_file", "bundle/configs/localize.yaml", "--limit", str(SCANS), "--gate_scans", "0"]
    done = subprocess.run(
        [sys.executable, str(program), str(work), *options],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = work / "log.txt"
    assert done.returncode == 0, done.stderr[-2000:] + (log.read_text()[-2000:] if log.exists() else "")
    return json.loads(done.stdout)


def maps(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.glob("maps/**/*.png"))
        if file.is_file()
    }


def records(folder: Path) -> dict[str, dict]:
    found = {
        str(file.relative_to(folder)): json.loads(file.read_text()) for file in sorted(folder.glob("maps/**/*.json"))
    }
    return {name: {key: value for key, value in record.items() if key != "seconds"} for name, record in found.items()}


def summary(folder: Path) -> dict:
    content = json.loads((folder / "summary.json").read_text())
    del content["seconds_per_scan"]
    for each in content["maps"]:
        del each["seconds"]
    return content


def test_runs_were_killed_and_the_last_ones_were_not(ended):
    assert ended["killed"] == [-9] * len(ended["killed"])
    assert ended["outside"][0] == -9
    assert [ended["whole"], ended["resumed"], ended["outside"][-1]] == [0] * 3


def test_of_two_runs_at_once_one_is_refused(ended, work):
    """Unless the machine let the second one begin when the first had ended."""
    first, second = sorted(ended["pair"])
    assert first == 0
    if second:
        assert "prepare_output_dir" in (work / "log.txt").read_text()  # which holds the folder, see test_locks.py


@pytest.mark.parametrize("name", ["killed", "outside", "pair"])
def test_maps_records_and_figures_are_those_of_a_whole_run(ended, work, name):
    assert len(maps(work / "whole")) == len(records(work / "whole")) == SCANS
    assert maps(work / name) == maps(work / "whole")
    assert records(work / name) == records(work / "whole")
    assert summary(work / name) == summary(work / "whole")
    assert (work / name / "contact_sheet.png").read_bytes() == (work / "whole" / "contact_sheet.png").read_bytes()
    assert (work / name / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("name", ["killed", "outside", "pair"])
def test_nothing_half_written_stays_among_the_maps(ended, work, name):
    assert list((work / name / "maps").rglob(".*")) == []
