# SPDX-License-Identifier: Apache-2.0
"""Runs the localize command many times over in processes that are killed; a program for test_localize_killed.py.

Importing torch and MONAI takes seconds, so this program imports them once, and every run is a fork of it that then goes
the way of ``python -m monai.bundle run``.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

# With four scans: before the first map is in place, between a map and its record (twice), at the second map, at the
# third record, at summary.json, contact_sheet.png and report.html.
MOMENTS = (1, 2, 2, 3, 4, 5, 3, 4)


def start(arguments: list[str], log: Path, kill_at: int | None = None, half: bool = False) -> int:
    """Start the command; return its process id.

    Args:
        arguments: of the command.
        log: file for what it prints.
        kill_at: the process kills itself, with SIGKILL, when it is about to move its so-manyth file into place.
        half: and has only half of that file written.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if kill_at is not None:
            _kill_at(kill_at, half)
        sys.argv = ["monai.bundle", "run", *arguments]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        os._exit(status)


def _kill_at(number: int, half: bool) -> None:
    move, moved = os.replace, []

    def counted(source: str, target: str) -> None:
        moved.append(target)
        if len(moved) == number:
            if half:
                os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        move(source, target)

    os.replace = counted


def finish(process: int) -> int:
    """Wait for a process; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_when(process: int, folder: Path, maps: int) -> int:
    """Kill a process from outside as soon as there are so many records; return its exit status."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("maps/**/*.json"))) < maps and time.monotonic() < deadline:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return finish(process)


def main(work: Path, common: list[str]) -> None:
    """Do all runs; print, as JSON, how each ended: exit status, or minus the signal."""
    import monai.bundle  # noqa: F401 - for all runs at once
    import torch

    import custom.workflows.localize  # noqa: F401
    import datasets  # noqa: F401

    torch.set_num_threads(1)

    def command(folder: str) -> list[str]:
        return [*common, "--output_dir", str(work / folder)]

    log = work / "log.txt"
    ended = {"whole": finish(start(command("whole"), log))}
    ended["killed"] = [
        finish(start(command("killed"), log, kill_at=number, half=number % 2 == 0)) for number in MOMENTS
    ]
    ended["resumed"] = finish(start(command("killed"), log))
    ended["outside"] = [kill_when(start(command("outside"), log), work / "outside", 2)]
    ended["outside"].append(finish(start(command("outside"), log)))
    pair = [start(command("pair"), log), start(command("pair"), log)]
    ended["pair"] = [finish(process) for process in pair]
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
