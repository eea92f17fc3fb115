# SPDX-License-Identifier: Apache-2.0
"""Normalisation of rows: over the visible positions of each sample (group), of all samples (batch), of one (layer).

PyTorch's own batch and layer normalisation carry their sums from row to row on a CPU, which at 160 voxels a side leaves
two correct digits of a variance's gradient; here they are sums of :mod:`custom.networks.packed.sums`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from custom.networks.packed.sites import Sites
from custom.networks.packed.sums import at_least_float32, sample_sum


def group_norm(
    values: Tensor, sites: Sites, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalise each sample's channel groups by the moments of its rows (biased variance, as in torch).

    Args:
        values: ``[N, C]``.
        sites: of the rows.
        groups: 1 is layer normalisation of a whole map, ``C`` is instance normalisation.
        weight: ``[C]`` or None.
        bias: ``[C]`` or None.
        eps: added to the variance.
    """
    result: Tensor = _Normalise.apply(values, weight, bias, sites, groups, eps)[0]
    return result


def batch_norm(layer: _BatchNorm, values: Tensor, spatial_dims: int) -> Tensor:
    """Normalise ``[N, C]`` as a batch normalisation layer does, its running statistics included.

    Args:
        layer: of the network.
        values: ``[N, C]``.
        spatial_dims: of the maps that the layer is for.

    Raises:
        ValueError: in training, if there are fewer than two rows to take statistics of.
    """
    if layer.training and len(values) < 2:
        raise ValueError(
            f"Batch normalisation needs at least two positions to take statistics of, got {len(values)}: choose "
            "another masking ratio, larger images or larger batches."
        )
    if not _sums_row_by_row(layer, values):
        normalised: Tensor = layer(values[(...,) + (None,) * spatial_dims])  # rows as maps of one position each
        return normalised.flatten(1)
    result, mean, variance = _Normalise.apply(values, layer.weight, layer.bias, None, values.shape[1], layer.eps)
    if layer.training and layer.track_running_stats:
        _keep_statistics(layer, mean[0], variance[0] * (len(values) / (len(values) - 1)))
    return result


def layer_norm(layer: nn.LayerNorm, values: Tensor) -> Tensor:
    """Normalise the channels of each position, which are last, as a layer normalisation does."""
    if layer.weight is None or values.device.type != "cpu":
        result: Tensor = layer(values)
        return result
    normalised = F.layer_norm(values, layer.normalized_shape, eps=layer.eps)
    scaled = normalised * layer.weight if layer.bias is None else torch.addcmul(layer.bias, normalised, layer.weight)
    return scaled.to(normalised.dtype)


def _sums_row_by_row(layer: _BatchNorm, values: Tensor) -> bool:
    """Whether torch would, for a plain layer: statistics of other processes are the layer's own affair."""
    takes_statistics = layer.training or layer.running_mean is None
    is_plain = type(layer).forward is _BatchNorm.forward
    return takes_statistics and is_plain and values.device.type == "cpu"


def _keep_statistics(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics as the layer does."""
    layer.num_batches_tracked.add_(1)
    factor = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), factor)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), factor)


class _Normalise(torch.autograd.Function):
    """With ``n = (x - mean) / std``: ``dx = (g w - mean(g w) - n mean(g w n)) / std``, means over the group.

    Without sites, all rows are one sample. The moments ``[B, C]`` are returned, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        sites: Sites | None,
        groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = at_least_float32(values)
        mean = _group_mean(_sum(wide, sites), len(values), sites, groups)
        centred = wide - _by_row(mean, sites)
        variance = _group_mean(_sum(centred.square(), sites), len(values), sites, groups)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(centred, scale, weight)
        ctx.sites, ctx.groups, ctx.dtype = sites, groups, values.dtype
        ctx.mark_non_differentiable(mean, variance)
        gain = _by_row(scale if weight is None else scale * weight, sites)
        result = centred * gain if bias is None else torch.addcmul(bias.to(wide.dtype), centred, gain)
        return result.to(values.dtype), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        centred, scale, weight = ctx.saved_tensors
        sites, gradient, rows = ctx.sites, at_least_float32(gradient), len(centred)
        by_bias = _sum(gradient, sites)
        by_weight = _sum(gradient * centred, sites) * scale
        gain = scale if weight is None else scale * weight
        plain, slope = (by_bias, by_weight) if weight is None else (by_bias * weight, by_weight * weight)
        mean = _group_mean(plain, rows, sites, ctx.groups) * scale
        tilt = _group_mean(slope, rows, sites, ctx.groups) * scale.square()
        by_values = gradient * _by_row(gain, sites)
        by_values -= _by_row(mean, sites)
        by_values.addcmul_(centred, _by_row(tilt, sites), value=-1)
        affine = (None, None) if weight is None else (by_weight.sum(dim=0), by_bias.sum(dim=0))
        return by_values.to(ctx.dtype), *affine, None, None, None


def _sum(values: Tensor, sites: Sites | None) -> Tensor:
    return values.sum(dim=0, keepdim=True) if sites is None else sample_sum(values, sites)


def _by_row(moments: Tensor, sites: Sites | None) -> Tensor:
    """Moments ``[B, C]`` beside rows ``[N, C]``."""
    return moments if sites is None else moments.index_select(0, sites.sample)


def _group_mean(sums: Tensor, rows: int, sites: Sites | None, groups: int) -> Tensor:
    """Mean of each sample's channel groups, repeated for each channel: ``[B, C]`` from sums ``[B, C]``."""
    batch, channels = sums.shape
    size = channels // groups
    count = rows * size if sites is None else (sites.counts * size).clamp(min=1)[:, None]
    means = sums.reshape(batch, groups, -1).sum(dim=2) / count
    return means.repeat_interleave(size, dim=1)
