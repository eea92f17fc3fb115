# SPDX-License-Identifier: Apache-2.0
"""Parameters of a network as optimizers take them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters for the optimizer: no weight decay on biases, normalisation and mask tokens (as in SparK).

    Weights of convolutions and linear layers are decayed whatever their shape, that of a head of one channel included.

    Args:
        network: its parameters without gradient are left out.
        weight_decay: for all weights of convolutions and linear layers, and other parameters that are matrices.
    """
    weights = {id(layer.weight) for layer in network.modules() if isinstance(layer, _ConvNd | nn.Linear)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            is_weight = id(parameter) in weights or sum(side > 1 for side in parameter.shape) > 1
            (decayed if is_weight else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
