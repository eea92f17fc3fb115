# SPDX-License-Identifier: Apache-2.0
"""Convolutions of packed maps: neighbours are gathered through a table, the rest is matrix products.

Forward, the neighbours of a chunk of outputs are gathered side by side and multiplied with all taps at once. Backward,
the gradients of the outputs that see an input are gathered instead; that one gather serves both gradients:

- input: ``dx[i] = sum over taps t of g[o(i, t)] W[t]^T``,
- weight: ``dW[t] = sum over inputs i of x[i]^T g[o(i, t)]``,

where ``o(i, t)`` is the output that sees input ``i`` through tap ``t``. Chunks keep what is gathered in the processor's
cache, and the memory that is needed small.

Under autocast, products are taken in half precision, as in torch's convolutions; the weight's gradient, a sum over many
chunks, is added up and returned in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from custom.networks.packed.gather import gather_chunks, with_absent
from custom.networks.packed.sites import Pairs, Sites, Stencil, TapGroup, Window, to_device


def convolve(values: Tensor, weight: Tensor, bias: Tensor | None, groups: int, stencil: Stencil) -> Tensor:
    """Convolve a packed map.

    Args:
        values: ``[inputs, C_in]``.
        weight: ``[C_out, C_in / groups, *kernel]``.
        bias: ``[C_out]`` or None.
        groups: as in torch's convolutions.
        stencil: from the input's positions to the output's.

    Returns:
        ``[outputs, C_out]``.
    """
    values = _cast(values)
    if stencil.window.is_pointwise and stencil.source is stencil.target and groups == 1:
        plain = weight.flatten(1).to(values.dtype)
        return F.linear(values, plain, None if bias is None else bias.to(values.dtype))
    if groups == 1:
        pairs = stencil.pairs
        if pairs is None:
            result = _Convolution.apply(values, weight, stencil)
        else:
            result = _PairedConvolution.apply(values, weight, pairs)
    elif groups == values.shape[1] == weight.shape[0]:
        result = _DepthwiseConvolution.apply(values, weight, stencil)
    else:
        result = _GroupedConvolution.apply(values, weight, groups, stencil)
    return result if bias is None else result.add_(bias.to(result.dtype))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, stencil: Stencil) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.stencil = stencil
        return _multiply(with_absent(values), stencil.table, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, weight = ctx.saved_tensors
        need_values, need_weight, _ = ctx.needs_input_grad
        if not need_values:
            if not need_weight:
                return None, None, None
            return None, _weight_gradient(with_absent(values), ctx.stencil.table, gradient, weight.shape), None
        by_values = ctx.stencil.empty_gradient(values)
        by_weight = _zeros_like_sum(values, weight[0, 0].numel(), *weight.shape[:2])
        matrices = weight.to(values.dtype).flatten(2).movedim(-1, 0).contiguous()
        padded = with_absent(gradient)
        for group in ctx.stencil.groups:
            by_weight[group.taps] = _group_gradients(group, values, padded, matrices[group.taps], by_values)
        return by_values, _as_weight(by_weight, weight), None


def _group_gradients(group: TapGroup, values: Tensor, padded: Tensor, matrices: Tensor, by_values: Tensor) -> Tensor:
    """Write the gradient of the group's inputs to ``by_values``; return that of its taps, ``[taps, C_out, C_in]``."""
    stacked = matrices.flatten(0, 1)
    by_taps = _zeros_like_sum(values, *stacked.shape)
    for rows, gathered in gather_chunks(padded, group.table):
        group.put(by_values, gathered @ stacked, rows)
        _add_product(by_taps, gathered.T, group.take(values, rows))
    return by_taps.reshape(matrices.shape)


def _multiply(padded: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """Products ``[n, C_out]`` of a weight with what the lines of a table name."""
    # Weights in channels-last memory format have this order already; others are copied.
    taps_last = weight.to(padded.dtype).movedim(1, -1).flatten(1)
    result = padded.new_empty(len(table), len(weight))
    for rows, gathered in gather_chunks(padded, table):
        torch.mm(gathered, taps_last.T, out=result[rows])
    return result


def _weight_gradient(padded: Tensor, table: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the weight in :func:`_multiply` alone, where nothing before the layer learns."""
    channels_out, channels, *kernel = shape
    total = _zeros_like_sum(padded, channels_out, channels * prod(kernel))
    for rows, gathered in gather_chunks(padded, table):
        _add_product(total, gradient[rows].T, gathered)
    return total.reshape(channels_out, *kernel, channels).movedim(-1, 1)


def _zeros_like_sum(values: Tensor, *shape: int) -> Tensor:
    """Zeros of the type in which products of ``values`` are added up."""
    return torch.zeros(shape, dtype=torch.promote_types(values.dtype, torch.float32), device=values.device)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to a total, which may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _as_weight(by_tap: Tensor, weight: Tensor) -> Tensor:
    """View ``[taps, C_out, C_in]`` as a weight, without copying it."""
    kernel = weight.shape[2:]
    return by_tap.reshape(*kernel, *weight.shape[:2]).permute(-2, -1, *range(len(kernel)))


class _PairedConvolution(torch.autograd.Function):
    """For windows that see much that is hidden: only pairs of visible positions are multiplied, tap by tap."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.pairs = pairs
        gathered = values.index_select(0, pairs.inputs)
        products = values.new_empty(len(gathered) + 1, len(weight))
        for part, matrix in zip(pairs.parts, _by_tap(weight, values), strict=True):
            torch.mm(gathered[part], matrix.T, out=products[part])
        return pairs.sum_by_output(products)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        values, weight = ctx.saved_tensors
        pairs = ctx.pairs
        inputs, gathered = values.index_select(0, pairs.inputs), gradient.index_select(0, pairs.outputs)
        products = values.new_empty(len(inputs) + 1, values.shape[1])
        by_weight = values.new_empty(weight[0, 0].numel(), *weight.shape[:2])
        for part, matrix, by_tap in zip(pairs.parts, _by_tap(weight, values), by_weight, strict=True):
            torch.mm(gathered[part], matrix, out=products[part])
            torch.mm(gathered[part].T, inputs[part], out=by_tap)
        return pairs.sum_by_input(products), _as_weight(by_weight, weight), None


def _by_tap(weight: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """A matrix ``[C_out, C_in]`` for each tap, of the values' type."""
    return weight.to(values.dtype).flatten(2).unbind(-1)


class _ImageConvolution(torch.autograd.Function):
    """The first layer: no gradient for its input, whose few channels are gathered in runs along the last axis."""

    @staticmethod
    def forward(ctx: Any, runs: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(runs, table)
        ctx.shape = weight.shape
        return _multiply(runs, table, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        runs, table = ctx.saved_tensors
        return None, _weight_gradient(runs, table, gradient, ctx.shape), None


def convolve_image(image: Tensor, weight: Tensor, bias: Tensor | None, target: Sites, window: Window) -> Tensor:
    """Convolve a dense image at the positions of a packed map.

    Args:
        image: ``[B, C, *spatial]``, zero where hidden; it gets no gradient.
        weight: ``[C_out, C, *kernel]``.
        bias: ``[C_out]`` or None.
        target: positions of the output.
        window: with a dilation of 1 along the last axis.

    Returns:
        ``[outputs, C_out]``.
    """
    image = _cast(image)
    reach = [
        max(0, (side - 1) * jump + step * (edge - 1) + 1 - size - pad)
        for size, side, edge, jump, pad, step in zip(image.shape[2:], target.spatial, *window, strict=True)
    ]
    margins = [end for pair in zip(reversed(window.padding), reversed(reach), strict=True) for end in pair]
    padded = F.pad(image, margins).movedim(1, -1).contiguous()
    channels, edge = padded.shape[-1], window.kernel[-1]
    # Overlapping views of consecutive positions: the taps along the last axis lie side by side in memory.
    runs = padded.as_strided((padded[..., 0].numel() - edge + 1, edge * channels), (channels, 1))
    result: Tensor = _ImageConvolution.apply(runs, weight, _first_taps(padded.shape[1:-1], target, window))
    return result if bias is None else result.add_(bias.to(result.dtype))


def _first_taps(size: Sequence[int], target: Sites, window: Window) -> Tensor:
    """Flat position, in a padded image of ``size``, of each window's taps at the start of its last axis."""
    flat, *axes = target.coordinates()
    steps = torch.zeros(1, dtype=torch.int64)
    edges = (*window.kernel[:-1], 1)
    for axis, side, edge, jump, step in zip(axes, size, edges, window.stride, window.dilation, strict=True):
        flat = flat * side + axis * jump
        steps = (steps[:, None] * side + torch.arange(edge) * step).flatten()
    return flat[:, None] + to_device(steps, target.device)


class _GroupedConvolution(torch.autograd.Function):
    """As :class:`_Convolution`, with one matrix product for each group of channels, all in one call."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, groups: int, stencil: Stencil) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.groups, ctx.stencil = groups, stencil
        weight = weight.to(values.dtype)
        matrices = _by_group(weight, groups).permute(0, 3, 2, 1).flatten(1, 2)  # [groups, taps * C_in, C_out]
        result = values.new_empty(len(stencil.target), len(weight))
        for rows, gathered in gather_chunks(with_absent(values), stencil.table):
            parts = _split(gathered, stencil.window.taps, groups)
            result[rows] = torch.bmm(parts, matrices).transpose(0, 1).flatten(1)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, weight = ctx.saved_tensors
        groups, stencil = ctx.groups, ctx.stencil
        by_tap = _by_group(weight.to(values.dtype), groups).movedim(3, 1)  # [groups, taps, C_out, C_in]
        by_values, by_weight = stencil.empty_gradient(values), _zeros_like_sum(values, *by_tap.shape)
        padded = with_absent(gradient)
        for group in stencil.groups:
            matrices = by_tap[:, group.taps]
            for rows, gathered in gather_chunks(padded, group.table):
                parts = _split(gathered, matrices.shape[1], groups)
                own = group.take(values, rows).unflatten(1, (groups, -1)).transpose(0, 1)
                group.put(by_values, torch.bmm(parts, matrices.flatten(1, 2)).transpose(0, 1).flatten(1), rows)
                by_weight[:, group.taps] += torch.bmm(parts.transpose(1, 2), own).reshape(matrices.shape)
        return by_values, by_weight.movedim(1, 3).reshape(weight.shape), None, None


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """Weights as ``[groups, C_out / groups, C_in / groups, taps]``."""
    return weight.flatten(2).unflatten(0, (groups, -1))


def _split(gathered: Tensor, taps: int, groups: int) -> Tensor:
    """Divide the channels of ``[n, taps * C]``: ``[groups, n, taps * C / groups]``."""
    return gathered.reshape(len(gathered), taps, groups, -1).permute(2, 0, 1, 3).flatten(2)


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, stencil: Stencil) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.stencil = stencil
        by_tap = weight.to(values.dtype).flatten(1).T
        result = values.new_empty(len(stencil.target), values.shape[1])
        for rows, gathered in gather_chunks(with_absent(values), stencil.table):
            neighbours = gathered.reshape(len(gathered), *by_tap.shape)
            torch.sum(neighbours.mul_(by_tap), dim=1, out=result[rows])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        values, weight = ctx.saved_tensors
        by_tap = weight.to(values.dtype).flatten(1).T
        by_values = ctx.stencil.empty_gradient(values)
        by_weight = _zeros_like_sum(values, *by_tap.shape)
        padded = with_absent(gradient)
        for group in ctx.stencil.groups:
            own_taps = by_tap[group.taps]
            for rows, gathered in gather_chunks(padded, group.table):
                neighbours = gathered.reshape(len(gathered), *own_taps.shape)
                by_weight[group.taps] += torch.einsum("ntc,nc->tc", neighbours, group.take(values, rows))
                group.put(by_values, (neighbours * own_taps).sum(dim=1), rows)
        return by_values, by_weight.T.reshape(weight.shape), None


def _cast(values: Tensor) -> Tensor:
    """Bring values to the type in which autocast computes convolutions."""
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
