# SPDX-License-Identifier: Apache-2.0
"""Files that a task leaves behind: written whole or not at all."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from custom.files import write_atomically
from custom.finite import check_finite

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

    As a handler of a MONAI evaluator it saves whenever the key metric exceeds all before; any number exceeds one
    that is not finite. The file holds the state dict and is replaced only once the new one is complete. As part of a
    checkpoint it brings the best weights so far back when a run is resumed.

    Args:
        file: where the weights go.
        network: the network.
        lower_is_better: for a key metric that is a loss.

    Attributes:
        score: key metric of the best validation; None before any.
        epoch: its epoch; 0 before any. Until then the file, if there is one, is an earlier run's.
        stale: validations since then.
    """

    def __init__(self, file: str | Path, network: nn.Module, lower_is_better: bool = False) -> None:
        self.file = Path(file)
        self.network = network
        self.lower_is_better = lower_is_better
        self.score: float | None = None
        self.epoch = 0
        self.stale = 0
        self._metric: str | None = None

    def attach(self, engine: Engine) -> None:
        """Save after every evaluation that is the best so far."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save if the engine's present evaluation is the best."""
        state: Any = engine.state
        score = float(state.metrics[state.key_metric_name])
        if self._metric not in (None, state.key_metric_name):  # resumed with another one: the two cannot be compared
            self.forget()
        self._metric = state.key_metric_name
        if self.score is not None and not self._is_better(score, self.score):
            self.stale += 1
            return
        self.score, self.epoch, self.stale = score, int(state.epoch), 0
        self.save()

    def _is_better(self, score: float, best: float) -> bool:
        if not (math.isfinite(best) and math.isfinite(score)):  # undefined: such an epoch never is the best for ever
            return math.isfinite(score)
        return score < best if self.lower_is_better else score > best

    def save(self) -> None:
        """Write the present weights."""
        self._write(self.network.state_dict())

    def restore(self) -> None:
        """Load the weights of the file into the network.

        Raises:
            ValueError: if the file is missing, damaged or of another network, or its weights are not finite.
        """
        try:
            weights = torch.load(self.file, map_location="cpu", weights_only=True)
            self.network.load_state_dict(weights)
        except Exception as error:
            remedy = (
                "Give the model.pt of a finished run of the same network; model.json beside it says how it was built."
            )
            raise ValueError(f"{self.file}: these weights cannot be loaded ({error}). {remedy}") from error
        check_finite(self.file, weights)

    def forget(self) -> None:
        """Begin anew: what an earlier run left in the file stays until this one has a best validation to replace it."""
        self.score, self.epoch, self.stale = None, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return score, epoch and weights of the best validation so far."""
        has_any = self.score is not None
        weights = torch.load(self.file, map_location="cpu", weights_only=True) if has_any else None
        told = {"score": self.score, "epoch": self.epoch, "stale": self.stale, "metric": self._metric}
        return {**told, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's best validation and write its weights."""
        self.score, self.epoch, self.stale = state["score"], state["epoch"], state["stale"]
        self._metric = state.get("metric")
        if state["weights"] is not None:
            self._write(state["weights"])

    def _write(self, weights: Mapping[str, Any]) -> None:
        def write(target: Path) -> None:
            # Into a stream: torch.save keeps the name of a path in the file, and equal weights would differ in hash.
            with open(target, "wb") as stream:
                torch.save(weights, stream)

        write_atomically(self.file, write)
