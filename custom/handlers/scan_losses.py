# SPDX-License-Identifier: Apache-2.0
"""The loss of each scan of a validation, so that its mean does not depend on how scans fall into batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor


class ScanLosses:
    """Add ``loss`` to an evaluator's output: the loss of every scan of the batch by itself, ``[B]``.

    A loss that averages over the voxels or cells of a batch weighs scans by what they have of them, and the mean over
    batches weighs the scans of a small last batch more: both change with the batch size. The mean over these losses is
    one over scans.

    Args:
        loss: from a prediction and a target to a scalar.
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor]) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Compute the losses when the network has answered."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Compute the losses of the engine's present batch."""
        output: Any = engine.state.output
        prediction, target = output["pred"], output["label"]
        output["loss"] = torch.stack(
            [self.loss(_one(prediction, index), _one(target, index)) for index in range(len(prediction))]
        )


def _one(batch: Any, index: int) -> Any:
    """A batch of one: of a tensor ``[B, ...]``, or of a named tuple of such (or None)."""
    if isinstance(batch, tuple):
        return type(batch)(*(_one(each, index) for each in batch))
    return None if batch is None else batch[index : index + 1]
