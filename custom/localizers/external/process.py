# SPDX-License-Identifier: Apache-2.0
"""A worker process that answers one request at a time, until it is closed, dies or takes too long."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

_GRACE = 5.0  # seconds that a worker has to end by itself
_LAST_LINES, _LAST_BYTES = 20, 10_000


class WorkerError(RuntimeError):
    """A worker could not be started, died, took too long, or reported an error; the message holds what it said."""


class Worker:
    """Starts a process and talks to it in lines of JSON.

    It is ended when this object goes, and ends by itself when this process does.

    Args:
        command: program and arguments; no shell is involved.
        environment: of the process.

    Raises:
        OSError: if the program cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read for as long as this object lives
        # A session of its own: all that it starts can be ended with it, and Ctrl-C is this process's to handle.
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=dict(environment),
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stdout, self._replies), daemon=True).start()
        self.owner = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, self.owner)

    @property
    def alive(self) -> bool:
        """Whether it can be asked; never by a process that was forked from the one that started it."""
        return self.owner == os.getpid() and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            WorkerError: if it died, or has not answered in time (it is then ended).
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=seconds)
        except OSError:
            line = None  # it is gone, and its end of the pipe with it
        except queue.Empty:
            _kill(self._process)
            raise WorkerError(
                f"The worker did not answer within {seconds / 60:g} minutes and was ended. {self.last_words()}"
            ) from None
        if line is None:
            raise WorkerError(f"The worker died ({self._how_it_ended()}). {self.last_words()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        # pread, because the worker writes where this file's position is
        text = os.pread(self._errors.fileno(), _LAST_BYTES, max(0, size - _LAST_BYTES)).decode(errors="replace")
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()][-_LAST_LINES:]
        return "It said:\n" + "\n".join(f"  {line}" for line in lines) if lines else "It said nothing."

    def close(self) -> None:
        """Let it end by itself, or end it."""
        self._end()

    def _how_it_ended(self) -> str:
        _kill(self._process)  # in case it lives on with its output closed
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "killed, as the system does when memory runs out"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _read(stream: IO[str], replies: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while it was read
        for line in stream:
            replies.put(line)
    replies.put(None)


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() != owner:  # a forked copy of the process that started it
        return
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process that still runs, and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
