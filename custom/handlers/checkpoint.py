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
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from custom.files import write_atomically
from custom.finite import check_finite
from custom.handlers.run_settings import RunSettings
from custom.handlers.seeding import RunSeed

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

    The run's own plan holds, not the checkpoint's: the number of epochs, the length of an epoch, and with them the
    learning rates of a ``LambdaLR`` (MONAI's ``WarmupCosineSchedule``), which go on from the share of the run that is
    done. With an unchanged plan all of it is as if the run had never stopped.

    Args:
        folder: where :class:`TrainingCheckpoint` wrote.
        objects: the same names as there. A :class:`custom.handlers.RunSettings` among them is compared with the
            checkpoint's before anything is loaded, and decides with its seed instead of the checkpoint's.
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
        """Load the newest readable checkpoint.

        Raises:
            ValueError: if it is of another network, optimizer or scheduler, was learnt with other settings, or its
                weights are not finite.
        """
        for epoch, path in reversed(checkpoints(self.folder)):
            try:
                content = torch.load(path, map_location=self.device, weights_only=True)
            except Exception as error:
                logger.warning("%s cannot be read (%s); trying the one before.", path, error)
                continue
            self._take_over(engine, epoch, path, content)
            logger.info("Resuming after epoch %d of %s from %s.", epoch, engine.state.max_epochs, path)
            return
        logger.info("No checkpoint in %s: training starts from the beginning.", self.folder)

    def _take_over(self, engine: Engine, epoch: int, path: Path, content: Mapping[str, Any]) -> None:
        check_finite(path, content)
        max_epochs, epoch_length = engine.state.max_epochs, engine.state.epoch_length
        wanted = with_engine(self.objects, engine)
        if "scaler" not in content:  # the run began without mixed precision
            wanted.pop("scaler", None)
        _compare(path, epoch, wanted, content)
        schedules = {name: wanted.pop(name) for name, item in [*wanted.items()] if isinstance(item, LambdaLR)}
        groups = {name: _without_parameters(schedule.optimizer) for name, schedule in schedules.items()}
        _restore(path, wanted, content)
        done = engine.state.iteration
        engine.state.max_epochs, engine.state.epoch_length = max_epochs, epoch_length
        engine.state.iteration = engine.state.epoch * (epoch_length or 0)
        for name, schedule in schedules.items():
            share = engine.state.iteration / max(done, 1)
            _set_schedule(schedule, round(content.get(name, {}).get("last_epoch", done) * share), groups[name])


def check_resumed(folder: str | Path, settings: RunSettings) -> None:
    """Compare a run's settings with those of the checkpoint that it will go on from, before any work is done.

    Args:
        folder: where :class:`TrainingCheckpoint` wrote, ``settings`` and ``seed`` among its objects.
        settings: of the run.

    Raises:
        ValueError: see :meth:`custom.handlers.RunSettings.check`.
    """
    for _, path in reversed(checkpoints(folder)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # said when it is the turn of this one to be loaded
            continue
        settings.check(path, content.get("settings"), content.get("seed", {}).get("seed"))
        return


def _compare(path: Path, epoch: int, wanted: dict[str, Any], content: Mapping[str, Any]) -> None:
    """Compare settings, if there are any, and take out of ``wanted`` what they decide."""
    seeds = [name for name, item in wanted.items() if isinstance(item, RunSeed)]
    seed = next((content[name]["seed"] for name in seeds if name in content), None)
    for name in [name for name, item in wanted.items() if isinstance(item, RunSettings)]:
        wanted.pop(name).resume(path, epoch, content.get(name), seed)
        for each in seeds:
            wanted.pop(each, None)


def _without_parameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _set_schedule(schedule: LambdaLR, steps: int, groups: list[dict[str, Any]]) -> None:
    """Bring a schedule of this run to a number of steps; rates and decay of the optimizer are this run's, too."""
    rates = [base * rate(steps) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, own, lr in zip(schedule.optimizer.param_groups, groups, rates, strict=True):
        group.update({**own, "lr": lr})
    schedule.last_epoch, schedule._step_count, schedule._last_lr = steps, steps + 1, rates


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
