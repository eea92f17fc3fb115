# SPDX-License-Identifier: Apache-2.0
"""The two kinds of work that are measured, the same for everyone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Masks(NamedTuple):
    """Visible cells of a batch, boolean ``[B, 1, *grid]``, True = visible: on the host and where the images are."""

    host: Tensor
    device: Tensor


Encode = Callable[[Tensor, Masks], Iterable[Tensor]]


class Work(Protocol):
    """What is timed.

    Attributes:
        network: whose parameters are trained.
        encode: the encoder alone, for counting.
    """

    network: nn.Module
    encode: Encode

    def step(self, image: Tensor, masks: Masks) -> Tensor:
        """Do the work once on ``[B, C, *spatial]``; return a scalar without gradient."""


class EncoderWork:
    """Forward and backward of the sum over the encoder's maps.

    Args:
        network: whose parameters get gradients.
        encode: from images and masks to the maps, as the encoder itself returns them (packed ones stay packed: what was
            never computed adds nothing to the sum).
    """

    def __init__(self, network: nn.Module, encode: Encode) -> None:
        self.network, self.encode = network.train(), encode

    def step(self, image: Tensor, masks: Masks) -> Tensor:
        """See :class:`Work`."""
        self.network.zero_grad(set_to_none=True)
        with mixed_precision(image):
            total = torch.stack([values.float().sum() for values in self.encode(image, masks)]).sum()
        total.backward()
        return total.detach()


class TrainingStep:
    """A whole step of pretraining: forward, loss, backward, clipping, optimizer.

    Args:
        network: encoder and decoder.
        encode: the encoder alone, for counting.
        loss: from images and masks to the loss.
        optimizer: of all parameters.
        max_norm: largest norm of the gradients; None: the optimizer itself sees to that.
    """

    def __init__(
        self,
        network: nn.Module,
        encode: Encode,
        loss: Callable[[Tensor, Masks], Tensor],
        optimizer: torch.optim.Optimizer,
        max_norm: float | None,
    ) -> None:
        self.network, self.encode = network.train(), encode
        self.loss, self.optimizer, self.max_norm = loss, optimizer, max_norm

    def step(self, image: Tensor, masks: Masks) -> Tensor:
        """See :class:`Work`."""
        self.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(image):
            loss = self.loss(image, masks)
        loss.backward()
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self.optimizer.step()
        return loss.detach()


def mixed_precision(image: Tensor) -> torch.autocast:
    """Bfloat16 where it pays, on a GPU; float32 on a CPU."""
    return torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda")
