# SPDX-License-Identifier: Apache-2.0
"""Randomness that is a function of the seed and the epoch alone, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

EPOCH_STRIDE = 100_003  # a prime: seeds of neighbouring runs do not meet within a run


class RunSeed:
    """The seed of a run, as an object that a checkpoint can keep.

    Args:
        value: the seed that was asked for.
    """

    def __init__(self, value: int) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the checkpoint's seed; say so if another one was asked for."""
        if state["seed"] != self.value:
            logger.warning("The resumed run has seed %d; seed %d is ignored.", state["seed"], self.value)
        self.value = state["seed"]


class EpochSeeding:
    """Seed torch, the order of the data and the random transforms anew at the start of every epoch.

    Nothing random then depends on how many epochs this process has run: what a checkpoint must keep is one number.

    Args:
        seed: of the run; a :class:`RunSeed` where a checkpoint keeps it.
        data_loader: its ``generator`` and its dataset's transforms are seeded.
        fixed: use the same seed every epoch (validation: the same masks each time).
    """

    def __init__(self, seed: int | RunSeed, data_loader: DataLoader, fixed: bool = False) -> None:
        if data_loader.generator is None:
            data_loader.generator = torch.Generator()
        self.seed = seed if isinstance(seed, RunSeed) else RunSeed(seed)
        self.data_loader = data_loader
        self.fixed = fixed

    def attach(self, engine: Engine) -> None:
        """Seed when an epoch starts, before the loader is asked for its first batch."""
        # Ignite finds the last epoch's iterator exhausted only now; torch's random sampler draws once more as it ends,
        # so the seed must be set again before the new iterator is made.
        engine.add_event_handler(Events.EPOCH_STARTED | Events.DATALOADER_STOP_ITERATION, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the engine's present epoch."""
        seed = self.seed.value + (0 if self.fixed else engine.state.epoch * EPOCH_STRIDE)
        if not self.fixed:
            torch.manual_seed(seed)  # dropout and the like; a validation must not touch the training's stream
        self.data_loader.generator.manual_seed(seed)
        transform = getattr(self.data_loader.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed % 2**32)
