# SPDX-License-Identifier: Apache-2.0
"""An output folder belongs to one run at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from custom.workflows import prepare_output_dir, release_output_dir
from custom.workflows.output import FolderInUseError, only_one

HOLD = """
import sys, time
from custom.workflows.output import prepare_output_dir
prepare_output_dir(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path, repository: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path, other: subprocess.Popen) -> None:
    says = rf"{tmp_path}: another process works in this folder \(process {other.pid} on .*, since .*--output_dir"
    with pytest.raises(FolderInUseError, match=says):
        prepare_output_dir(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait(timeout=60)
    prepare_output_dir(tmp_path)
    release_output_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def is_refused(folder: Path) -> bool:
    """Whether another process may not have the folder."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_is_refused, (folder,))


def _is_refused(folder: Path) -> bool:
    try:
        prepare_output_dir(folder)
    except FolderInUseError:
        return True
    release_output_dir(folder)
    return False


def test_commands_in_commands_share_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_output_dir(tmp_path / "out")
    prepare_output_dir("out")
    release_output_dir("out")
    assert is_refused(tmp_path / "out")
    release_output_dir(tmp_path / "out")
    assert not is_refused(tmp_path / "out")
    release_output_dir(tmp_path / "out")  # once too often does no harm


def test_a_worker_does_not_outlive_its_parent_as_holder(tmp_path: Path, repository: Path) -> None:
    code = f"""
import os, sys, time
from custom.workflows.output import prepare_output_dir
prepare_output_dir({str(tmp_path)!r})
worker = os.fork()
if worker == 0:
    print("forked", flush=True)
    time.sleep(600)
print(worker, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip() for _ in range(2)}
        parent.kill()
        parent.wait(timeout=60)
        assert not _is_refused(tmp_path)
        os.kill(int(next(iter(said - {"forked"}))), signal.SIGKILL)


def test_one_piece_of_work_also_holds_against_its_own_process(tmp_path: Path) -> None:
    with only_one(tmp_path / "a", "on this study"):
        with (
            pytest.raises(ValueError, match="another process works on this study"),
            only_one(tmp_path / "a", "on this study"),
        ):
            pass
        prepare_output_dir(tmp_path / "a")  # a command of that work
        release_output_dir(tmp_path / "a")
    with only_one(tmp_path / "a", "on this study"):
        pass
    assert list((tmp_path / "a").iterdir()) == []


def test_without_locks_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    prepare_output_dir(tmp_path)
    release_output_dir(tmp_path)
    assert "no locks" in caplog.text


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
