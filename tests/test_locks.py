# SPDX-License-Identifier: Apache-2.0
"""A folder belongs to one run at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from custom.locks import FolderInUseError, hold, only_one, release

HOLD = """
import pathlib, sys, time
from custom.locks import hold
hold(pathlib.Path(sys.argv[1]))
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
        hold(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait(timeout=60)
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []
    release(tmp_path)
    assert not tmp_path.with_name(f".{tmp_path.name}.lock").exists()


def is_refused(folder: Path) -> bool:
    """Whether another process may not have the folder."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_is_refused, (folder,))


def _is_refused(folder: Path) -> bool:
    try:
        hold(folder)
    except FolderInUseError:
        return True
    release(folder)
    return False


def test_commands_in_commands_share_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    hold(tmp_path / "out")
    hold(Path("out"))
    release(Path("out"))
    assert is_refused(tmp_path / "out")
    release(tmp_path / "out")
    assert not is_refused(tmp_path / "out")
    release(tmp_path / "out")  # once too often does no harm


def test_a_worker_does_not_outlive_its_parent_as_holder(tmp_path: Path, repository: Path) -> None:
    code = f"""
import os, pathlib, time
from custom.locks import hold
hold(pathlib.Path({str(tmp_path)!r}))
if os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        parent.wait(timeout=60)
        try:
            assert not _is_refused(tmp_path)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_one_piece_of_work_also_holds_against_its_own_process(tmp_path: Path) -> None:
    with only_one(tmp_path / "a", "on this study"):
        with (
            pytest.raises(ValueError, match="another process works on this study"),
            only_one(tmp_path / "a", "on this study"),
        ):
            pass
        hold(tmp_path / "a")  # a command of that work
        release(tmp_path / "a")
    with only_one(tmp_path / "a", "on this study"):
        pass
    assert list((tmp_path / "a").iterdir()) == []


def test_where_no_file_can_be_made_beside_it_the_folder_itself_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: Path, *options: int) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *options)

    monkeypatch.setattr("os.open", read_only)
    hold(tmp_path)
    assert is_refused(tmp_path)
    release(tmp_path)
    assert tmp_path.is_dir()
    assert not is_refused(tmp_path)


def test_without_locks_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    hold(tmp_path)
    release(tmp_path)
    assert "no locks" in caplog.text
