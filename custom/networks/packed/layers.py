# SPDX-License-Identifier: Apache-2.0
"""What each kind of layer does to packed maps: the rules of :mod:`custom.networks.masked_layers`, without the waste.

Only visible positions exist here. Convolutions and pooling find their neighbours through tables
(:mod:`custom.networks.packed.sites`); normalisation and activations work row by row. Results equal those of the masked
dense reference within rounding, gradients and running statistics included. Only element-wise dropout draws other random
numbers: it draws none for hidden positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from custom.networks.masked_layers import (
    NEW_TENSORS,
    POINTWISE,
    SCALING_FUNCTIONS,
    UnsupportedLayerError,
    check_convolution,
    check_function,
    check_global_pool,
    check_instance_norm,
    check_layer_norm,
    check_linear,
    check_max_pool,
)
from custom.networks.packed.convolution import convolve, convolve_image
from custom.networks.packed.normalisation import batch_norm, group_norm, layer_norm
from custom.networks.packed.pooling import max_pool, sum_pool
from custom.networks.packed.rows import MaskedImage, Rows
from custom.networks.packed.sites import Window
from custom.networks.packed.sums import sample_mean
from custom.networks.visibility import Visibility

MOST_IMAGE_CHANNELS = 8  # more than that gather well one position at a time


def first_layer(layer: nn.Module, image: MaskedImage, visibility: Visibility) -> Rows | Tensor:
    """Apply a layer to the image itself."""
    is_small = image.dense.shape[1] <= MOST_IMAGE_CHANNELS and not image.dense.requires_grad
    if not (isinstance(layer, _ConvNd) and layer.groups == 1 and layer.dilation[-1] == 1 and is_small):
        return packed_layer(layer, image.rows, visibility)
    check_convolution(layer)
    window = Window.of(layer, len(image.sites.spatial))
    target = visibility.sites(_convolved_size(layer, window, image.sites.spatial))
    return Rows(convolve_image(image.dense, layer.weight, layer.bias, target, window), target)


@singledispatch
def packed_layer(layer: nn.Module, rows: Rows, visibility: Visibility) -> Rows | Tensor:
    """Apply a layer to a packed map; global pooling leaves the packed world and returns ``[B, C, 1, ...]``.

    Raises:
        UnsupportedLayerError: if there is no rule for the layer.
    """
    if isinstance(layer, POINTWISE):
        return Rows(layer(rows.values), rows.sites)
    raise UnsupportedLayerError(type(layer).__name__)


@packed_layer.register
def _convolution(layer: _ConvNd, rows: Rows, visibility: Visibility) -> Rows:
    check_convolution(layer)
    window = Window.of(layer, len(rows.sites.spatial))
    size = _convolved_size(layer, window, rows.sites.spatial)
    stencil = visibility.stencil(rows.sites.spatial, size, window)
    return Rows(convolve(rows.values, layer.weight, layer.bias, layer.groups, stencil), stencil.target)


@packed_layer.register
def _linear(layer: nn.Linear, rows: Rows, visibility: Visibility) -> Rows:
    check_linear(layer, rows.values.shape[1])
    return Rows(layer(rows.values), rows.sites)


@packed_layer.register
def _channel_dropout(layer: _DropoutNd, rows: Rows, visibility: Visibility) -> Rows:
    if isinstance(layer, nn.Dropout):
        return Rows(layer(rows.values), rows.sites)
    return _scaled(rows, layer)


@packed_layer.register
def _batch_norm(layer: _BatchNorm, rows: Rows, visibility: Visibility) -> Rows:
    return Rows(batch_norm(layer, rows.values, len(rows.sites.spatial)), rows.sites)


@packed_layer.register
def _instance_norm(layer: _InstanceNorm, rows: Rows, visibility: Visibility) -> Rows:
    check_instance_norm(layer)
    channels = rows.values.shape[1]
    return Rows(group_norm(rows.values, rows.sites, channels, layer.weight, layer.bias, layer.eps), rows.sites)


@packed_layer.register
def _group_norm(layer: nn.GroupNorm, rows: Rows, visibility: Visibility) -> Rows:
    return Rows(group_norm(rows.values, rows.sites, layer.num_groups, layer.weight, layer.bias, layer.eps), rows.sites)


@packed_layer.register
def _layer_norm(layer: nn.LayerNorm, rows: Rows, visibility: Visibility) -> Rows:
    check_layer_norm(layer, rows.values.shape[1])
    return Rows(layer_norm(layer, rows.values), rows.sites)


@packed_layer.register
def _max_pool(layer: _MaxPoolNd, rows: Rows, visibility: Visibility) -> Rows:
    check_max_pool(layer)
    window = Window.of(layer, len(rows.sites.spatial))
    stencil = visibility.stencil(rows.sites.spatial, _pooled_size(layer, rows), window)
    return Rows(max_pool(rows.values, stencil), stencil.target)


@packed_layer.register
def _average_pool(layer: _AvgPoolNd, rows: Rows, visibility: Visibility) -> Rows:
    window = Window.of(layer, len(rows.sites.spatial))
    stencil = visibility.stencil(rows.sites.spatial, _pooled_size(layer, rows), window)
    # A dense pool's weight of the window (smaller at some borders), shared by the positions that are visible.
    dense = layer(rows.values.new_ones((1, 1, *rows.sites.spatial))).flatten()
    weight = dense.index_select(0, stencil.target.index % len(dense))
    count = (stencil.table < len(rows.sites)).sum(dim=1).clamp(min=1)
    return Rows(sum_pool(rows.values, stencil) * (weight / count)[:, None], stencil.target)


@packed_layer.register
def _global_pool(layer: _AdaptiveAvgPoolNd, rows: Rows, visibility: Visibility) -> Tensor:
    check_global_pool(layer)
    return sample_mean(rows.values, rows.sites)[(...,) + (None,) * len(rows.sites.spatial)]


def packed_function(name: str, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply a traced function or method to packed maps, per-sample values ``[B, C, 1, ...]`` and numbers.

    Raises:
        UnsupportedLayerError: if there is no rule for it.
    """
    flat = list(args[0]) if name == "cat" else list(args)
    rows = next((value for value in flat if isinstance(value, Rows)), None)
    if rows is None:
        return call(*args, **kwargs)
    check_function(name, rows, args, kwargs)
    if name == "permute":
        return rows  # rows are channels last, whatever the network calls its axes
    if name == "getattr":
        return getattr(rows if args[1] in ("shape", "ndim") else rows.values, args[1])
    if name in ("size", "dim"):
        return rows.ndim if name == "dim" else rows.shape[args[1]] if len(args) > 1 else rows.shape
    if name in NEW_TENSORS:
        return call(rows.values, *args[1:], **kwargs)
    if name in SCALING_FUNCTIONS:
        return _scaled(rows, lambda ones: call(ones, *args[1:], **kwargs))
    values = [_operand(value, rows) for value in flat]
    if name == "cat":
        return Rows(torch.cat(values, dim=1), rows.sites)
    return Rows(call(*values, **kwargs), rows.sites)


def _scaled(rows: Rows, draw: Callable[[Tensor], Tensor]) -> Rows:
    """Multiply by what is made of ones, a number for each sample and channel ``[B, C, 1, ...]``."""
    ones = rows.values.new_ones((rows.shape[0], rows.shape[1]) + (1,) * len(rows.sites.spatial))
    return Rows(rows.values * draw(ones).flatten(1).index_select(0, rows.sites.sample), rows.sites)


def _operand(value: Any, rows: Rows) -> Any:
    """What stands beside rows ``[N, C]`` in an element-wise function."""
    if isinstance(value, Rows):
        return value.values
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.ndim == len(rows.shape) and value.shape[0] == rows.shape[0]:
        return value.flatten(1).index_select(0, rows.sites.sample)
    return value.flatten()  # one number a channel


def _convolved_size(layer: _ConvNd, window: Window, size: tuple[int, ...]) -> tuple[int, ...]:
    """Size after a convolution; with "same" padding even kernels reach one position further at the end of each axis."""
    return size if layer.padding == "same" else window.target_size(size)


def _pooled_size(layer: nn.Module, rows: Rows) -> tuple[int, ...]:
    """Size after a pooling layer, by its own rules of rounding."""
    return tuple(layer(torch.empty((1, 1, *rows.sites.spatial), device="meta")).shape[2:])
