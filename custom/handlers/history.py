# SPDX-License-Identifier: Apache-2.0
"""The course of a training run, kept as a table that survives resuming."""

from __future__ import annotations

import csv
from pathlib import Path

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from custom.files import write_atomically


class TrainingHistory:
    """Append one row an epoch to a CSV file: epoch, learning rate, and all metrics of trainer and validator.

    The learning rate also becomes a metric of the engine, so that handlers attached later report it. A resumed run
    keeps the rows up to the epoch that it resumes after; a fresh one replaces an earlier run's file after its first
    epoch.

    Args:
        file: the CSV file.
        optimizer: source of the learning rate (of its first parameter group).
        validator: engine whose metrics join the rows of the epochs that it ran in; None: training metrics only.
    """

    def __init__(self, file: str | Path, optimizer: Optimizer, validator: Engine | None = None) -> None:
        self.file = Path(file)
        self.optimizer = optimizer
        self.validator = validator
        self._rows: list[dict[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Start when training starts, append after every epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._append)

    def _start(self, engine: Engine) -> None:
        rows = read_history(self.file) if engine.state.epoch else []
        self._rows = [row for row in rows if int(row["epoch"]) <= engine.state.epoch]

    def _append(self, engine: Engine) -> None:
        engine.state.metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        validated = self.validator is not None and self.validator.state.epoch == engine.state.epoch
        metrics = {**(self.validator.state.metrics if validated and self.validator else {}), **engine.state.metrics}
        row = {"epoch": str(engine.state.epoch), **{name: repr(float(value)) for name, value in metrics.items()}}
        self._rows.append(row)
        self._write(self._rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def write(target: Path) -> None:
            with open(target, "w", newline="") as stream:
                writer = csv.DictWriter(stream, columns, restval="")
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.file, write)


def read_history(file: str | Path) -> list[dict[str, str]]:
    """Rows of a history file; empty if there is none."""
    if not Path(file).is_file():
        return []
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))
