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

from collections.abc import Callable, Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from custom.networks.packed.normalisation import batch_norm, layer_norm
from custom.networks.packed.rows import Rows
from custom.networks.packed.sums import at_least_float32
from custom.networks.visibility import Visibility

POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity,
)  # fmt: skip


class UnsupportedLayerError(TypeError):
    """A layer, or a forward pass, that has no meaning under a mask.

    Args:
        layer: what it is.
        frozen: what its trace does not follow (:attr:`custom.networks.tracing.Trace.frozen`); empty: it has no rule.
    """

    def __init__(self, layer: str, frozen: str = "") -> None:
        self.layer = layer
        no_rule = (
            f"{layer} has no rule for hidden positions, so it cannot be pretrained sparsely. Supported: convolutions, "
            "batch, instance, group and channel-wise layer normalisation, maximum, average and global average pooling, "
            "linear layers, element-wise activations and dropout. Choose another encoder, or add a rule in "
            "custom/networks/masked_layers.py and custom/networks/packed/layers.py."
        )
        not_followed = (
            f"{layer} cannot be pretrained sparsely: {frozen}, which its trace would not follow. Tasks run the network "
            "itself and are not concerned."
        )
        super().__init__(not_followed if frozen else no_rule)


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
    check_convolution(layer)
    return visibility.hide(layer(values))


@masked_layer.register
def _linear(layer: nn.Linear, values: Tensor, visibility: Visibility) -> Tensor:
    if values.ndim > 2:
        check_linear(layer, values.shape[1])
    return _per_position(layer, values, visibility)


@masked_layer.register
def _layer_norm(layer: nn.LayerNorm, values: Tensor, visibility: Visibility) -> Tensor:
    check_layer_norm(layer, values.shape[1])
    return _per_position(partial(layer_norm, layer), values, visibility)


def _per_position(layer: Callable[[Tensor], Tensor], values: Tensor, visibility: Visibility) -> Tensor:
    """Apply a layer that works on the channels of one position, which it expects last."""
    if values.ndim <= 2:
        return layer(values)
    return visibility.hide(layer(values.movedim(1, -1)).movedim(-1, 1))


@masked_layer.register
def _batch_norm(layer: _BatchNorm, values: Tensor, visibility: Visibility) -> Tensor:
    rows = Rows.of(values, visibility.sites(values.shape[2:]))
    return Rows(batch_norm(layer, rows.values, values.ndim - 2), rows.sites).dense()


@masked_layer.register
def _instance_norm(layer: _InstanceNorm, values: Tensor, visibility: Visibility) -> Tensor:
    check_instance_norm(layer)
    return _normalise_groups(values, visibility, values.shape[1], layer)


@masked_layer.register
def _group_norm(layer: nn.GroupNorm, values: Tensor, visibility: Visibility) -> Tensor:
    return _normalise_groups(values, visibility, layer.num_groups, layer)


def _normalise_groups(
    values: Tensor, visibility: Visibility, groups: int, layer: _InstanceNorm | nn.GroupNorm
) -> Tensor:
    """Normalise each sample's channel groups by their visible positions' moments (biased variance, as in torch)."""
    batch, channels = values.shape[:2]
    grouped = at_least_float32(values).reshape(batch, groups, channels // groups, -1)
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
    check_max_pool(layer)
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
    check_global_pool(layer)
    axes = tuple(range(2, values.ndim))
    count = visibility.at(values.shape[2:]).sum(dim=axes, keepdim=True).clamp(min=1)
    return (at_least_float32(values).sum(dim=axes, keepdim=True) / count).to(values.dtype)


def masked_function(
    name: str, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], visibility: Visibility
) -> Any:
    """Apply a traced function or method; hide the result if it is a feature map ``[B, C, *spatial]``.

    Raises:
        UnsupportedLayerError: if there is no rule for it.
    """
    flat = list(args[0]) if name == "cat" else list(args)
    values = next((value for value in flat if _is_map(value, visibility)), None)
    if values is None:
        return call(*args, **kwargs)
    check_function(name, values, args, kwargs)
    if name == "permute":
        return values  # maps are kept channels first, whatever the network calls its axes
    if name == "cat":
        return torch.cat(flat, dim=1)
    result = call(*(_per_channel(value, values) for value in args), **kwargs)
    return visibility.hide(result) if _is_map(result, visibility) else result


def _is_map(value: Any, visibility: Visibility) -> bool:
    """Whether a value is a feature map, not a number or what global pooling leaves of a map."""
    is_like_cells = isinstance(value, Tensor) and value.ndim == visibility.cells.ndim
    return is_like_cells and any(side > 1 for side in value.shape[2:])


def _per_channel(value: Any, values: Tensor) -> Any:
    """A parameter ``[C]`` beside a map that the network thinks of as channels last."""
    if isinstance(value, Tensor) and value.ndim == 1:
        return value.reshape((-1,) + (1,) * (values.ndim - 2))
    return value


POINTWISE_FUNCTIONS = frozenset((
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "relu", "relu6", "leaky_relu", "elu", "celu", "selu",
    "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "softplus", "dropout", "alpha_dropout",
))  # fmt: skip
# Multiply by random numbers of each sample, or of its channels.
SCALING_FUNCTIONS = frozenset(("dropout1d", "dropout2d", "dropout3d", "feature_dropout", "stochastic_depth"))
NEW_TENSORS = frozenset(("new_empty", "new_zeros", "new_ones", "new_full"))
DESCRIPTIONS = frozenset(("shape", "ndim", "dtype", "device"))


def check_function(name: str, values: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise UnsupportedLayerError for a function of feature maps without a rule (``values``: what has a shape)."""
    axes = len(values.shape)
    if name in POINTWISE_FUNCTIONS | SCALING_FUNCTIONS | NEW_TENSORS or name in ("size", "dim"):
        return
    if name == "getattr" and args[1] in DESCRIPTIONS:
        return
    if name == "cat" and (args[1] if len(args) > 1 else kwargs.get("dim", 0)) in (1, 1 - axes):
        return
    to_last, to_first = (0, *range(2, axes), 1), (0, axes - 1, *range(1, axes - 1))
    if name == "permute" and tuple(args[1:] if isinstance(args[1], int) else args[1]) in (to_last, to_first):
        return
    raise UnsupportedLayerError(f"The function {name}")


def check_convolution(layer: _ConvNd) -> None:
    """Raise UnsupportedLayerError for convolutions without a rule."""
    if isinstance(layer, _ConvTransposeNd) or layer.padding_mode != "zeros":
        raise UnsupportedLayerError(f"{type(layer).__name__} (padding mode {layer.padding_mode})")


def check_instance_norm(layer: _InstanceNorm) -> None:
    """Raise UnsupportedLayerError for instance normalisation without a rule."""
    if layer.track_running_stats:
        raise UnsupportedLayerError(f"{type(layer).__name__} with running statistics")


def check_linear(layer: nn.Linear, channels: int) -> None:
    """Raise UnsupportedLayerError for linear layers on anything but the channels of each position."""
    if layer.in_features != channels:
        raise UnsupportedLayerError(f"Linear from {layer.in_features} values on a feature map of {channels} channels")


def check_layer_norm(layer: nn.LayerNorm, channels: int) -> None:
    """Raise UnsupportedLayerError for layer normalisation of anything but the channels of each position."""
    if tuple(layer.normalized_shape) != (channels,):
        raise UnsupportedLayerError(f"LayerNorm over {tuple(layer.normalized_shape)} of a map of {channels} channels")


def check_max_pool(layer: _MaxPoolNd) -> None:
    """Raise UnsupportedLayerError for maximum pooling without a rule."""
    if layer.return_indices:
        raise UnsupportedLayerError(f"{type(layer).__name__} with return_indices")


def check_global_pool(layer: _AdaptiveAvgPoolNd) -> None:
    """Raise UnsupportedLayerError for adaptive pooling to anything but one position."""
    sizes = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size,)
    if any(size != 1 for size in sizes):
        raise UnsupportedLayerError(f"{type(layer).__name__} to size {layer.output_size}")
