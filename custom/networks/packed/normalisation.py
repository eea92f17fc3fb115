# SPDX-License-Identifier: Apache-2.0
"""Group normalisation of packed maps over the visible positions of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from custom.networks.masked_layers import at_least_float32
from custom.networks.packed.pooling import sample_sum
from custom.networks.packed.sites import Sites


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
    result: Tensor = _GroupNorm.apply(values, weight, bias, sites, groups, eps)
    return result


class _GroupNorm(torch.autograd.Function):
    """With ``n = (x - mean) / std``: ``dx = (g w - mean(g w) - n mean(g w n)) / std``, means over the group."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, sites: Sites, groups: int, eps: float
    ) -> Tensor:
        wide = at_least_float32(values)
        centred = wide - _group_mean(sample_sum(wide, sites), sites, groups).index_select(0, sites.sample)
        variance = _group_mean(sample_sum(centred.square(), sites), sites, groups)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(centred, scale, weight)
        ctx.sites, ctx.groups, ctx.dtype = sites, groups, values.dtype
        gain = scale if weight is None else scale * weight
        result = centred * gain.index_select(0, sites.sample)
        return (result if bias is None else result.add_(bias)).to(values.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, scale, weight = ctx.saved_tensors
        sites, gradient = ctx.sites, at_least_float32(gradient)
        by_bias = sample_sum(gradient, sites)
        by_weight = sample_sum(gradient * centred, sites) * scale
        gain = scale if weight is None else scale * weight
        plain, slope = (by_bias, by_weight) if weight is None else (by_bias * weight, by_weight * weight)
        mean = _group_mean(plain, sites, ctx.groups) * scale
        tilt = _group_mean(slope, sites, ctx.groups) * scale.square()
        by_values = gradient * gain.index_select(0, sites.sample)
        by_values -= mean.index_select(0, sites.sample)
        by_values.addcmul_(centred, tilt.index_select(0, sites.sample), value=-1)
        affine = (None, None) if weight is None else (by_weight.sum(dim=0), by_bias.sum(dim=0))
        return by_values.to(ctx.dtype), *affine, None, None, None


def _group_mean(sums: Tensor, sites: Sites, groups: int) -> Tensor:
    """Mean of each sample's channel groups, repeated for each channel: ``[B, C]`` from sums ``[B, C]``."""
    batch, channels = sums.shape
    count = (sites.counts * (channels // groups)).clamp(min=1)[:, None]
    means = sums.reshape(batch, groups, -1).sum(dim=2) / count
    return means.repeat_interleave(channels // groups, dim=1)
