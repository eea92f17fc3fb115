# SPDX-License-Identifier: Apache-2.0
"""Gradient clipping for MONAI's trainers."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import Trainer
from monai.engines.utils import IterationEvents


class GradientClipping:
    """Limit the norm of all gradients together, between the backward pass and the optimizer's step.

    Args:
        max_norm: largest allowed Euclidean norm (SparK's recipe: 5).

    Raises:
        ValueError: if ``max_norm`` is not positive.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, got {max_norm}.")
        self.max_norm = max_norm

    def attach(self, engine: Trainer) -> None:
        """Clip after each backward pass of a ``SupervisedTrainer``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip the gradients of the engine's network; mixed precision's scaling is taken back first."""
        if getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)
