# SPDX-License-Identifier: Apache-2.0
"""Sums over the rows of packed maps, which may be millions.

A sum that is carried from row to row in float32 loses a digit with every hundredfold length, and what is small beside
it (a variance, a gradient that nearly cancels) loses more. ``torch.sum`` adds in parts, and costs no more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from custom.networks.packed.sites import Sites


def at_least_float32(values: Tensor) -> Tensor:
    """Values in the type in which moments are taken, whatever autocast made of them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def sample_sum(values: Tensor, sites: Sites) -> Tensor:
    """Sum over the rows of each sample, ``[B, C]`` from ``[N, C]``."""
    result: Tensor = _SampleSum.apply(values, sites)
    return result


def sample_mean(values: Tensor, sites: Sites) -> Tensor:
    """Mean over the visible positions of each sample, ``[B, C]`` from ``[N, C]``; zero for a sample without any."""
    means = sample_sum(at_least_float32(values), sites) / sites.counts.clamp(min=1)[:, None]
    return means.to(values.dtype)


class _SampleSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sites: Sites) -> Tensor:
        ctx.sites = sites
        return torch.stack([part.sum(dim=0) for part in values.split(sites.sizes)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.sites.sample), None
