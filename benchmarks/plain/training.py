# SPDX-License-Identifier: Apache-2.0
"""A training loop written out by hand."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.optimizers import WarmupCosineSchedule
from torch import Tensor, nn

WARMUP_EPOCHS = 2


def train(
    network: nn.Module,
    batches: Any,
    loss_of: Callable[[Any], Tensor],
    validate: Callable[[], float],
    options: Mapping[str, Any],
    weight_decay: float,
    clip_norm: float | None = None,
) -> dict[str, Any]:
    """Train, validate after every epoch, and leave the network as it was at the best validation.

    Args:
        network: what is trained.
        batches: a sized iterable of batches, in a new order in every pass.
        loss_of: batch -> loss.
        validate: what the network reaches on the validation scans.
        options: ``max_epochs`` and ``learning_rate``.
        weight_decay: of AdamW, on weights only.
        clip_norm: largest norm of all gradients together.

    Returns:
        The best epoch and its score.
    """
    weights = [each for each in network.parameters() if sum(side > 1 for side in each.shape) > 1]
    others = [each for each in network.parameters() if sum(side > 1 for side in each.shape) <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"])
    steps = len(batches)
    schedule = WarmupCosineSchedule(optimizer, WARMUP_EPOCHS * steps, options["max_epochs"] * steps, end_lr=0.0)
    best_score, best_epoch, best = float("-inf"), 0, network.state_dict()
    for epoch in range(1, options["max_epochs"] + 1):
        network.train()
        for batch in batches:
            optimizer.zero_grad()
            loss_of(batch).backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            score = validate()
        if score > best_score:
            best_score, best_epoch, best = score, epoch, copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    network.eval()
    return {"best_epoch": best_epoch, "best_val_score": best_score}


def first_of(items: Sequence[Mapping[str, Any]], count: int | None, seed: int) -> list[Mapping[str, Any]]:
    """Return as many items as are to be learnt from: the first of a seeded order, as the workflows choose them."""
    if count is None:
        return list(items)
    ordered = sorted(items, key=lambda item: str(item["scan_id"]))
    random.Random(seed).shuffle(ordered)
    return ordered[:count]


class Batches:
    """Batches of examples that are made anew in every pass, in a new order.

    Args:
        examples: what can be turned into a training example.
        make: turns one into a training example, at random.
        size: of a batch; a last one of a single example is left out (batch normalisation needs two).
    """

    def __init__(self, examples: Sequence[Any], make: Callable[[Any], Any], size: int) -> None:
        self.examples, self.make, self.size = examples, make, size

    def __len__(self) -> int:
        full, rest = divmod(len(self.examples), self.size)
        return full + (rest > 1)

    def __iter__(self) -> Iterable[list[Any]]:
        order = torch.randperm(len(self.examples)).tolist()
        for start in range(0, len(self) * self.size, self.size):
            yield [self.make(self.examples[index]) for index in order[start : start + self.size]]
