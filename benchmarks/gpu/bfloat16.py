# SPDX-License-Identifier: Apache-2.0
"""Mixed precision in bfloat16, as an inferer that any of the bundle's configs can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor


class Bfloat16Inferer(SimpleInferer):
    """Runs the network under autocast to bfloat16 and returns float32, on any device.

    Weights, gradients and the loss stay float32. No gradient scaler is needed, since bfloat16 has float32's range:
    leave the engine's ``amp`` off.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return ``network(inputs, *args, **kwargs)``."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs).float()
