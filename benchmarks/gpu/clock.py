# SPDX-License-Identifier: Apache-2.0
"""The time of a training: how long its epochs take, and whether another one fits before the deadline."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from custom.files import write_atomically


class OutOfTime(Exception):  # noqa: N818 - no error: the study is to stop here and can go on
    """Too little time is left for the next step."""


class Clock:
    """Times a training's epochs, and stops it with a checkpoint where another one would not end before the deadline.

    Attach it after the training's own handlers. The times are kept in a file, so that they survive a resumed run.

    Args:
        file: where the times go.
        deadline: when the training must have stopped, in seconds of ``time.monotonic``.
        save: writes a checkpoint of the engine; None: what was trained is lost.
    """

    def __init__(self, file: Path, deadline: float, save: Callable[[Engine], None] | None = None) -> None:
        self.file, self.deadline, self.save = file, deadline, save
        self.epochs: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
        self.stopped = False
        self._start = self._trained = self._longest = 0.0

    def attach(self, engine: Engine) -> None:
        """Time every epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def facts(self) -> dict[str, Any]:
        """Epochs, seconds in them, and images a second of training: the median epoch, without validation.

        A kill between a checkpoint and the end of its epoch loses that epoch's time: it counts as the others' mean.
        """
        epochs, timed = max(map(int, self.epochs), default=0), list(self.epochs.values())
        seconds = epochs * statistics.fmean(each["seconds"] for each in timed) if timed else 0.0
        rates = [each["images"] / each["training"] for each in timed]
        rate = round(statistics.median(rates), 1) if rates else None
        return {"epochs": epochs, "seconds": round(seconds, 1), "images_per_second": rate}

    def _begin(self, _: Engine) -> None:
        self._start = time.monotonic()

    def _step(self, _: Engine) -> None:
        self._trained = time.monotonic()

    def _end(self, engine: Any) -> None:
        now, state = time.monotonic(), engine.state
        self._longest = max(self._longest, now - self._start)
        self.epochs[str(state.epoch)] = {
            "seconds": now - self._start,
            "training": self._trained - self._start,
            "images": len(state.dataloader.sampler),
        }
        write_atomically(self.file, lambda target: target.write_text(json.dumps(self.epochs)))
        if state.epoch < state.max_epochs and now + self._longest > self.deadline:
            self.stopped = True
            if self.save is not None:
                self.save(engine)
            raise OutOfTime(f"stopped after epoch {state.epoch} of {state.max_epochs}")
