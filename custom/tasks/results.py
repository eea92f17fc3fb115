# SPDX-License-Identifier: Apache-2.0
"""Files that a task leaves behind: written whole or not at all."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from custom.files import write_atomically

logger = logging.getLogger(__name__)


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a dictionary as JSON; NaN is refused because JSON does not know it."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda target: target.write_text(text))


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows, all with the same columns, as CSV."""

    def write(target: Path) -> None:
        with open(target, "w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return write_atomically(path, write)


class BestModel:
    """The network's weights at the best validation, kept in a file.

    As a handler of a MONAI evaluator it saves whenever the key metric exceeds all before. The file holds the state
    dict and is replaced only once the new one is complete.

    Args:
        file: where the weights go.
        network: the network.
    """

    def __init__(self, file: str | Path, network: nn.Module) -> None:
        self.file = Path(file)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Save after every evaluation that is the best so far."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save if the engine's present evaluation is its best."""
        state: Any = engine.state
        if state.best_metric_epoch == state.epoch:
            self.save()

    def save(self) -> None:
        """Write the present weights."""
        weights = self.network.state_dict()
        write_atomically(self.file, lambda target: torch.save(weights, target))

    def restore(self) -> None:
        """Load the weights of the file."""
        weights = torch.load(self.file, map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)

    def discard(self) -> None:
        """Remove the file, so that a new run cannot take an earlier run's weights for its own."""
        self.file.unlink(missing_ok=True)
