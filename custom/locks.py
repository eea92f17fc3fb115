# SPDX-License-Identifier: Apache-2.0
"""A folder is worked on by one run at a time."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

LOCK = ".lock"


class FolderInUseError(ValueError):
    """A folder that another run holds."""


@dataclass
class _Held:
    file: IO[str]
    times: int


_held: dict[Path, _Held] = {}


def hold(folder: Path) -> None:
    """Hold a folder for this process, in which it may be held several times: commands call each other.

    It is held until :func:`release` was called as often, or the process ends, however that ends.

    Raises:
        FolderInUseError: if another process holds it; the message says which, and what to do.
        OSError: if no file can be written there.
    """
    place = folder.resolve()
    if place in _held:
        _held[place].times += 1
    else:
        _held[place] = _Held(_locked(folder, LOCK, "in this folder"), 1)


def release(folder: Path) -> None:
    """Let other processes have a folder."""
    place = folder.resolve()
    if place in _held:
        _held[place].times -= 1
        if not _held[place].times:
            _unlock(_held.pop(place).file)


@contextlib.contextmanager
def only_one(folder: str | Path, what: str) -> Iterator[None]:
    """Hold a folder for one piece of work, also against others of this process.

    Args:
        folder: created if it is not there.
        what: is done, for the message: "on this study".

    Raises:
        FolderInUseError: if it is held.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = _locked(Path(folder), "lock", what)
    try:
        yield
    finally:
        _unlock(file)


def _locked(folder: Path, name: str, what: str) -> IO[str]:
    while True:
        file = (folder.resolve() / name).open("a+")
        if not _is_locked(file):
            holder = _holder(file)
            file.close()
            raise FolderInUseError(
                f"{folder}: another process works {what}{holder}; two would mix their files. Wait for it, stop it, or "
                "choose another folder with --output_dir."
            )
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # its holder removed it in the moment before it was locked here
    file.truncate(0)
    json.dump(_this_process(), file)
    file.flush()
    return file


def _is_locked(file: IO[str]) -> bool:
    """Whether this process has the lock now; the kernel takes it back when the process ends, however that ends."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        logger.warning("%s: there are no locks in this file system; run one command at a time in a folder.", file.name)
    return True


def _this_process() -> dict[str, str]:
    command = " ".join(shlex.join(sys.orig_argv).split())[:300]
    return {"process": str(os.getpid()), "host": socket.gethostname(), "since": time.ctime(), "command": command}


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        known = json.load(file)
        return f" (process {known['process']} on {known['host']}, since {known['since']}: {known['command']})"
    except (ValueError, KeyError, TypeError, OSError):  # just being written
        return ""


def _unlock(file: IO[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file.name)
    file.close()


def _unlock_all() -> None:
    while _held:
        _unlock(_held.popitem()[1].file)


def _forget() -> None:
    """A forked process (a worker of a data loader) neither holds what its parent holds, nor outlives it as holder."""
    for each in _held.values():
        each.file.close()
    _held.clear()


atexit.register(_unlock_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
