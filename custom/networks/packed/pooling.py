# SPDX-License-Identifier: Apache-2.0
"""Pooling of packed maps over the visible positions of each window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from custom.networks.packed.gather import gather_chunks, with_absent
from custom.networks.packed.sites import Stencil


def max_pool(values: Tensor, stencil: Stencil) -> Tensor:
    """Largest visible value of each window, ``[outputs, C]`` from ``[inputs, C]``; zero where there is none."""
    result: Tensor = _MaxPool.apply(values, stencil)
    return result


def sum_pool(values: Tensor, stencil: Stencil) -> Tensor:
    """Sum over the visible positions of each window, ``[outputs, C]`` from ``[inputs, C]``."""
    result: Tensor = _SumPool.apply(values, stencil)
    return result


class _SumPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, stencil: Stencil) -> Tensor:
        ctx.stencil = stencil
        return _sum_named(values, stencil.table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        result = ctx.stencil.empty_gradient(gradient)
        for group in ctx.stencil.groups:
            group.put(result, _sum_named(gradient, group.table))
        return result, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, stencil: Stencil) -> Tensor:
        result = values.new_empty(len(stencil.target), values.shape[1])
        winners = torch.zeros_like(result, dtype=torch.uint8 if stencil.window.taps < 256 else torch.int16)
        for rows, gathered in gather_chunks(with_absent(values, float("-inf")), stencil.table):
            by_tap = gathered.reshape(len(gathered), -1, values.shape[1]).unbind(dim=1)
            best, winner = result[rows], winners[rows]
            best.copy_(by_tap[0])
            for tap, candidate in enumerate(by_tap[1:], start=1):
                # Of equals the first wins, as in torch. Taps ascend, so the largest one that improved is the winner.
                torch.maximum(winner, (candidate > best).to(winner.dtype).mul_(tap), out=winner)
                torch.maximum(best, candidate, out=best)
        ctx.save_for_backward(winners)
        ctx.stencil = stencil
        return result.masked_fill_(result == float("-inf"), 0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (winners,) = ctx.saved_tensors
        channels = gradient.shape[1]
        # One more row takes the gradients of windows without any visible position.
        result = gradient.new_zeros(len(ctx.stencil.source) + 1, channels)
        rows = ctx.stencil.table.gather(1, winners.long()).long()
        places = rows.mul_(channels).add_(torch.arange(channels, device=rows.device))
        result.view(-1).scatter_add_(0, places.flatten(), gradient.flatten())
        return result[:-1], None


def _sum_named(values: Tensor, table: Tensor) -> Tensor:
    """Sum of the rows that each line of a table names, ``[n, C]``; the number of rows names nothing."""
    return F.embedding_bag(table, with_absent(values), mode="sum")
