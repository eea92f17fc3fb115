# SPDX-License-Identifier: Apache-2.0
"""The physical limit: multiply-adds that exact sparse execution of an encoder needs, counted from its tables."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from custom.networks import Encoder, Visibility
from custom.networks.packed.sites import Window


class Need(NamedTuple):
    """Multiply-adds.

    - ``dense``: everything is computed;
    - ``block``: all taps of the visible outputs;
    - ``submanifold``: only pairs of a visible input and a visible output.
    """

    dense: float
    block: float
    submanifold: float

    def __add__(self, other: Need) -> Need:  # type: ignore[override]
        return Need(*(mine + its for mine, its in zip(self, other, strict=True)))

    def __mul__(self, factor: float) -> Need:  # type: ignore[override]
        return Need(*(factor * value for value in self))


@dataclass(frozen=True)
class Convolution:
    """What one convolution did in a dense forward pass.

    Args:
        source: spatial size of its input.
        target: spatial size of its output.
        window: its geometry.
        channels: products for each pair of an input and an output position, ``C_in / groups * C_out``.
        passes: how often these products are made in a training step: forward, for the weight, for the input.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    window: Window
    channels: int
    passes: int

    def need(self, visibility: Visibility) -> Need:
        """Multiply-adds of one forward pass for a batch of masks."""
        stencil = visibility.stencil(self.source, self.target, self.window)
        outputs = len(visibility.cells) * prod(self.target)
        pairs = int((stencil.table < len(stencil.source)).sum())
        return Need(outputs * self.window.taps, stencil.table.numel(), pairs) * self.channels


def encoder_convolutions(encoder: Encoder, image_size: tuple[int, ...]) -> list[Convolution]:
    """Look at every convolution of a dense forward pass. Nothing is computed: it is done without data."""
    ghost = copy.deepcopy(encoder).to("meta")
    found: list[Convolution] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: found.append(_look_at(layer, inputs[0], output)))
        for layer in ghost.modules()
        if isinstance(layer, _ConvNd)
    ]
    ghost(torch.empty((1, encoder.in_channels, *image_size), device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def encoder_need(encoder: Encoder, image_size: tuple[int, ...], visible: Tensor) -> tuple[Need, Need]:
    """Return the need of one forward pass, and of one forward and backward pass.

    Args:
        encoder: what is executed.
        image_size: sides in voxels.
        visible: boolean ``[B, 1, *grid]``, True = visible.
    """
    visibility = Visibility(visible.cpu(), encoder.spatial_dims)
    forward, training = Need(0, 0, 0), Need(0, 0, 0)
    for convolution, need in _needs(encoder_convolutions(encoder, image_size), visibility):
        forward, training = forward + need, training + need * convolution.passes
    return forward, training


def _needs(convolutions: list[Convolution], visibility: Visibility) -> Iterator[tuple[Convolution, Need]]:
    for convolution in convolutions:
        yield convolution, convolution.need(visibility)


def _look_at(layer: nn.Module, values: Tensor, output: Tensor) -> Convolution:
    window = Window(layer.kernel_size, layer.stride, _padding(layer), layer.dilation)
    channels = layer.in_channels // layer.groups * layer.out_channels
    passes = 1 + int(layer.weight.requires_grad) + int(values.requires_grad)
    return Convolution(tuple(values.shape[2:]), tuple(output.shape[2:]), window, channels, passes)


def _padding(layer: Any) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        return tuple(step * (edge - 1) // 2 for edge, step in zip(layer.kernel_size, layer.dilation, strict=True))
    return tuple(layer.padding)
