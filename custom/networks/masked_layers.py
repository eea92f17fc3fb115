# SPDX-License-Identifier: Apache-2.0
"""What each kind of layer does when only some positions are visible: dense computation, then the mask.

This is the readable reference (SparK's "masked dense" execution, arXiv 2301.03580, section 3.1). Values enter with
zeros at hidden positions and leave so. It saves nothing; it defines what a faster execution must equal.

- Convolution: hidden neighbours count as zeros.
- Normalisation: statistics over visible positions only, running statistics included. Batch normalisation pools them
  over the batch, instance and group normalisation over one sample, whatever the others show.
- Maximum and average pooling: over the visible positions of the window; global pooling over those of the sample.
- Activations, dropout: position by position.

A layer of any other kind raises :class:`UnsupportedLayerError`: it would be silently wrong otherwise.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from custom.networks.visibility import Visibility

POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity,
)  # fmt: skip


class UnsupportedLayerError(TypeError):
    """A layer whose meaning under a mask is not defined."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"{layer} has no rule for hidden positions, so it cannot be pretrained sparsely. Supported: convolutions, "
            "batch, instance and group normalisation, maximum, average and global average pooling, linear layers after "
            "global pooling, element-wise activations and dropout. Choose another encoder, or add a rule in "
            "custom/networks/masked_layers.py."
        )


@singledispatch
def masked_layer(layer: nn.Module, values: Tensor, visibility: Visibility) -> Tensor:
    """Apply a layer to ``values`` ``[B, C, *spatial]``, zero where hidden; the result is zero where hidden, too.

    Raises:
        UnsupportedLayerError: if there is no rule for the layer.
    """
    if isinstance(layer, POINTWISE):
        result: Tensor = layer(values)
        return visibility.hide(result) if values.ndim > 2 else result
    raise UnsupportedLayerError(type(layer).__name__)


@masked_layer.register
def _convolution(layer: _ConvNd, values: Tensor, visibility: Visibility) -> Tensor:
    if isinstance(layer, _ConvTransposeNd) or layer.padding_mode != "zeros":
        raise UnsupportedLayerError(f"{type(layer).__name__} (padding mode {layer.padding_mode})")
    return visibility.hide(layer(values))


@masked_layer.register
def _linear(layer: nn.Linear, values: Tensor, visibility: Visibility) -> Tensor:
    if values.ndim > 2:
        raise UnsupportedLayerError("Linear on a feature map")
    result: Tensor = layer(values)
    return result


@masked_layer.register
def _batch_norm(layer: _BatchNorm, values: Tensor, visibility: Visibility) -> Tensor:
    visible = visibility.at(values.shape[2:])
    if bool(visible.all()):
        return layer(values)
    where = visible[:, 0].nonzero(as_tuple=True)
    channels_last = values.movedim(1, -1)
    rows = channels_last[where]
    if layer.training and len(rows) < 2:
        raise ValueError(
            f"Batch normalisation needs two visible positions at resolution {tuple(values.shape[2:])}, got "
            f"{len(rows)}: lower the masking ratio, use larger images or larger batches."
        )
    # Rows as maps of one position: the layer itself computes, updates its running statistics and synchronises.
    normalised = layer(rows[(...,) + (None,) * (values.ndim - 2)]).flatten(1)
    result = torch.zeros_like(channels_last, dtype=normalised.dtype).index_put(where, normalised)
    return result.movedim(-1, 1)


@masked_layer.register
def _instance_norm(layer: _InstanceNorm, values: Tensor, visibility: Visibility) -> Tensor:
    if layer.track_running_stats:
        raise UnsupportedLayerError(f"{type(layer).__name__} with running statistics")
    return _normalise_groups(values, visibility, values.shape[1], layer)


@masked_layer.register
def _group_norm(layer: nn.GroupNorm, values: Tensor, visibility: Visibility) -> Tensor:
    return _normalise_groups(values, visibility, layer.num_groups, layer)


def _normalise_groups(
    values: Tensor, visibility: Visibility, groups: int, layer: _InstanceNorm | nn.GroupNorm
) -> Tensor:
    """Normalise each sample's channel groups by their visible positions' moments (biased variance, as in torch)."""
    batch, channels = values.shape[:2]
    grouped = values.float().reshape(batch, groups, channels // groups, -1)
    visible = visibility.at(values.shape[2:]).reshape(batch, 1, 1, -1)
    count = (visible.sum(dim=(2, 3), keepdim=True) * (channels // groups)).clamp(min=1)
    mean = grouped.sum(dim=(2, 3), keepdim=True) / count
    centred = (grouped - mean).masked_fill(~visible, 0)
    variance = centred.square().sum(dim=(2, 3), keepdim=True) / count
    normalised = (centred * torch.rsqrt(variance + layer.eps)).reshape(values.shape)
    if layer.weight is not None:
        shape = (1, channels) + (1,) * (values.ndim - 2)
        normalised = normalised * layer.weight.reshape(shape) + layer.bias.reshape(shape)
    return visibility.hide(normalised.to(values.dtype))


@masked_layer.register
def _max_pool(layer: _MaxPoolNd, values: Tensor, visibility: Visibility) -> Tensor:
    if layer.return_indices:
        raise UnsupportedLayerError(f"{type(layer).__name__} with return_indices")
    pooled = layer(values.masked_fill(~visibility.at(values.shape[2:]), float("-inf")))
    return visibility.hide(pooled.masked_fill(pooled == float("-inf"), 0))


@masked_layer.register
def _avg_pool(layer: _AvgPoolNd, values: Tensor, visibility: Visibility) -> Tensor:
    visible = visibility.at(values.shape[2:]).to(values.dtype)
    # The share of the window that a dense pool would average over, divided by the share that is visible: 1 when all is.
    share = layer(torch.ones_like(visible)) / layer(visible).clamp(min=torch.finfo(values.dtype).tiny)
    return visibility.hide(layer(values) * share)


@masked_layer.register
def _global_pool(layer: _AdaptiveAvgPoolNd, values: Tensor, visibility: Visibility) -> Tensor:
    sizes = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size,)
    if any(size != 1 for size in sizes):
        raise UnsupportedLayerError(f"{type(layer).__name__} to size {layer.output_size}")
    axes = tuple(range(2, values.ndim))
    count = visibility.at(values.shape[2:]).sum(dim=axes, keepdim=True).clamp(min=1)
    return values.sum(dim=axes, keepdim=True) / count


def masked_function(name: str, result: Tensor, visibility: Visibility) -> Tensor:
    """Hide the result of an element-wise function if it is a feature map ``[B, C, *spatial]``."""
    is_map = result.ndim == visibility.cells.ndim
    return visibility.hide(result) if is_map else result


POINTWISE_FUNCTIONS = frozenset(
    ("add", "iadd", "sub", "isub", "mul", "imul", "truediv", "cat", "relu", "leaky_relu", "gelu", "silu", "sigmoid")
)
SHAPE_FUNCTIONS = frozenset({"getattr", "getitem", "size"})
RESHAPES = frozenset({"view", "reshape", "flatten"})


def check_function(name: str, source: object) -> None:
    """Raise UnsupportedLayerError for a traced function that has no rule (``source``: its first argument)."""
    if name in POINTWISE_FUNCTIONS or name in SHAPE_FUNCTIONS:
        return
    is_map = isinstance(source, Tensor) and any(size > 1 for size in source.shape[2:])
    if name not in RESHAPES or is_map:
        raise UnsupportedLayerError(f"The function {name}")
