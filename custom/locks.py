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
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


class FolderInUseError(ValueError):
    """A folder that another run holds."""


@dataclass
class _Lock:
    descriptor: int
    path: Path
    times: int = 1


_held: dict[Path, _Lock] = {}
_pieces: list[_Lock] = []


def hold(folder: Path) -> None:
    """Hold a folder for this process, in which it may be held several times: commands call each other.

    It is held until :func:`release` was called as often, or the process ends, however that ends. The lock is a hidden
    file beside the folder, which goes with it; where none can be made there, the folder itself.

    Raises:
        FolderInUseError: if another process holds it; the message says which, and what to do.
        OSError: if the folder cannot be opened.
    """
    place = folder.resolve()
    if place in _held:
        _held[place].times += 1
        return
    beside = place.with_name(f".{place.name}.lock")
    try:
        _held[place] = _locked(beside, folder, "in this folder")
    except OSError:
        _held[place] = _locked(place, folder, "in this folder")


def release(folder: Path) -> None:
    """Let other processes have a folder."""
    place = folder.resolve()
    if place in _held:
        _held[place].times -= 1
        if not _held[place].times:
            _unlock(_held.pop(place))


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
    lock = _locked(Path(folder).resolve() / "lock", Path(folder), what)
    _pieces.append(lock)
    try:
        yield
    finally:
        _pieces.remove(lock)
        _unlock(lock)


def _locked(path: Path, folder: Path, what: str) -> _Lock:
    while True:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
        if not _is_locked(descriptor, folder):
            holder = _holder(descriptor)
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder}: another process works {what}{holder}; two would mix their files. Wait for it, stop it, or "
                "choose another folder with --output_dir."
            )
        state = os.fstat(descriptor)
        if state.st_nlink:
            break
        os.close(descriptor)  # its holder removed it in the moment before it was locked here
    if stat.S_ISREG(state.st_mode):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
    return _Lock(descriptor, path)


def _is_locked(descriptor: int, folder: Path) -> bool:
    """Whether this process has the lock now; the kernel takes it back when the process ends, however that ends."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        logger.warning("%s: there are no locks in this file system; run one command at a time in a folder.", folder)
    return True


def _this_process() -> dict[str, str]:
    command = " ".join(shlex.join(sys.orig_argv).split())[:300]
    return {"process": str(os.getpid()), "host": socket.gethostname(), "since": time.ctime(), "command": command}


def _holder(descriptor: int) -> str:
    try:
        known = json.loads(os.pread(descriptor, 4096, 0))
        return f" (process {known['process']} on {known['host']}, since {known['since']}: {known['command']})"
    except (ValueError, KeyError, TypeError, OSError):  # just being written; or the folder itself, where none is told
        return ""


def _unlock(lock: _Lock) -> None:
    if not lock.path.is_dir():
        with contextlib.suppress(OSError):
            os.unlink(lock.path)
    os.close(lock.descriptor)


def _unlock_all() -> None:
    while _held:
        _unlock(_held.popitem()[1])


def _forget() -> None:
    """A forked process (a worker of a data loader) neither holds what its parent holds, nor outlives it as holder."""
    for lock in (*_held.values(), *_pieces):
        os.close(lock.descriptor)
    _held.clear()
    _pieces.clear()


atexit.register(_unlock_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
