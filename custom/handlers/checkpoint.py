# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive a crash, a full disk and a killed process, and the way back from them."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

from custom.files import write_atomically
from custom.finite import check_finite

logger = logging.getLogger(__name__)

PATTERN = re.compile(r"checkpoint_epoch=(\d+)\.pt$")


class TrainingCheckpoint:
    """Write everything that training needs to go on, every few epochs and at the end.

    A checkpoint is written under another name, flushed to disk and moved into place; only then are older ones removed.
    Whatever happens while writing, the previous checkpoint is still there.

    Attach it after :class:`ResumeTraining`.

    Args:
        folder: where ``checkpoint_epoch=N.pt`` files go.
        objects: name -> object with ``state_dict`` (network, optimizer, scheduler, random state, ...). The trainer and
            its gradient scaler are added.
        interval: epochs between checkpoints.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: str | Path, objects: Mapping[str, Any], interval: int = 1, keep: int = 2) -> None:
        if interval < 1 or keep < 1:
            raise ValueError(f"interval and keep must be at least 1, got {interval} and {keep}.")
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.interval = interval
        self.keep = keep

    def attach(self, engine: Engine) -> None:
        """Write after every ``interval`` epochs and after the last one; set an earlier run's checkpoints aside."""
        engine.add_event_handler(Events.STARTED, self._set_aside)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the checkpoint of the engine's present epoch, unless it is there.

        Raises:
            OSError: if it cannot be written (the message says which earlier checkpoint remains).
        """
        path = self.folder / f"checkpoint_epoch={engine.state.epoch}.pt"
        if not path.is_file():
            self._write(path, {name: item.state_dict() for name, item in with_engine(self.objects, engine).items()})
        for _, old in checkpoints(self.folder)[: -self.keep]:
            old.unlink()

    def _set_aside(self, engine: Engine) -> None:
        """A run that starts anew must neither mix its checkpoints with an earlier run's nor destroy them."""
        if engine.state.epoch or not checkpoints(self.folder):
            return
        aside = self.folder.with_name(f"{self.folder.name}.previous")
        shutil.rmtree(aside, ignore_errors=True)
        self.folder.rename(aside)
        logger.warning("Checkpoints of an earlier run are now in %s (--resume true would have continued it).", aside)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        try:
            write_atomically(path, lambda target: torch.save(content, target))
        except OSError as error:
            earlier = checkpoints(self.folder)
            intact = f" {earlier[-1][1].name} is intact: --resume true continues from it." if earlier else ""
            raise OSError(f"{error}{intact}") from error


class ResumeTraining:
    """Continue from the newest readable checkpoint of a folder; start anew, and say so, if there is none.

    Args:
        folder: where :class:`TrainingCheckpoint` wrote.
        objects: the same names as there.
        device: where tensors go.
    """

    def __init__(self, folder: str | Path, objects: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.device = device

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the newest readable checkpoint; the engine's own ``max_epochs`` stays in force.

        Raises:
            ValueError: if it is of another network, optimizer or scheduler, or its weights are not finite.
        """
        for epoch, path in reversed(checkpoints(self.folder)):
            try:
                content = torch.load(path, map_location=self.device, weights_only=True)
            except Exception as error:
                logger.warning("%s cannot be read (%s); trying the one before.", path, error)
                continue
            check_finite(path, content)
            max_epochs = engine.state.max_epochs
            wanted = with_engine(self.objects, engine)
            if "scaler" not in content:  # the run began without mixed precision
                wanted.pop("scaler", None)
            _restore(path, wanted, content)
            engine.state.max_epochs = max_epochs
            logger.info("Resuming after epoch %d of %s from %s.", epoch, max_epochs, path)
            return
        logger.info("No checkpoint in %s: training starts from the beginning.", self.folder)


def _restore(path: Path, objects: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    try:
        Checkpoint.load_objects(to_load=objects, checkpoint=content)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch names every single weight
        raise ValueError(
            f"{path}: this checkpoint was written with another network or other settings ({reason}). Give the settings "
            "that the run began with, or begin another run: with another --output_dir, or with --resume false."
        ) from error


def checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """Epochs and files of the checkpoints in a folder, oldest first."""
    found = [(PATTERN.search(path.name), path) for path in Path(folder).glob("checkpoint_epoch=*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def with_engine(objects: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """Add the engine itself (epoch, iteration) and the gradient scaler that it makes for mixed precision."""
    scaler = getattr(engine, "scaler", None)
    return {**objects, "trainer": engine, **({"scaler": scaler} if scaler is not None else {})}
