# SPDX-License-Identifier: Apache-2.0
"""Which positions of a map are computed, and how windows lead from the positions of one map to those of another.

Everything here is integer bookkeeping on masks. It is made once per mask and resolution, lives as long as the
:class:`custom.networks.Visibility` that keeps it, and knows nothing of channels or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

EVERYTHING = slice(None)
# Share of a window that must be visible for gathering whole windows to be cheaper than single pairs (measured at 128 to
# 512 channels), and the size of a table up to which products for single pairs are small enough to be kept.
PAIRED_BELOW = 0.85
MOST_PAIRS = 50_000


class Window(NamedTuple):
    """Geometry of a convolution or a pooling, one number per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, layer: Any, spatial_dims: int) -> Window:
        """Read the geometry of a convolution or pooling layer of torch."""
        kernel = _per_axis(layer.kernel_size, spatial_dims)
        stride = kernel if layer.stride is None else _per_axis(layer.stride, spatial_dims)
        dilation = _per_axis(getattr(layer, "dilation", 1), spatial_dims)
        padding = layer.padding
        if padding == "same":  # at the start of each axis, as in torch
            padding = [step * (edge - 1) // 2 for edge, step in zip(kernel, dilation, strict=True)]
        return cls(kernel, stride, _per_axis(0 if padding == "valid" else padding, spatial_dims), dilation)

    @property
    def taps(self) -> int:
        """Number of positions that the window looks at."""
        return prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output looks at the input of its own place alone."""
        return self.taps == 1 and prod(self.stride) == 1 and not any(self.padding)

    @property
    def keeps_size(self) -> bool:
        """Whether it has stride 1 and reaches equally far to both sides, so that output and input have one grid."""
        reach = zip(self.kernel, self.padding, self.dilation, strict=True)
        return prod(self.stride) == 1 and all(2 * pad == step * (edge - 1) for edge, pad, step in reach)

    def target_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output for an input of ``size``, rounded down as in torch's convolutions."""
        axes = zip(size, *self, strict=True)
        return tuple((side + 2 * pad - step * (edge - 1) - 1) // jump + 1 for side, edge, jump, pad, step in axes)


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


class Sites:
    """The positions of a batch of maps that are computed; a packed map has one row for each.

    Rows are in row-major order of sample and position.

    Args:
        mask: boolean ``[B, *spatial]`` **on the CPU**, True = computed. The number of rows must be known to the host;
            were it counted on a GPU, every step would wait for it.
        device: where the packed maps live.

    Attributes:
        mask: as given.
        index: ``[N]`` int64 on ``device``, flat position in ``[B, *spatial]`` of each row.
    """

    def __init__(self, mask: Tensor, device: torch.device | str = "cpu") -> None:
        self.mask = mask
        self.device = torch.device(device)
        self.index = to_device(mask.flatten().nonzero()[:, 0], self.device)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.mask.shape[0]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of the map."""
        return tuple(self.mask.shape[1:])

    @cached_property
    def sample(self) -> Tensor:
        """The sample of each row, ``[N]`` int64."""
        return self.index // prod(self.spatial)

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each sample."""
        sizes: list[int] = self.mask.flatten(1).sum(dim=1).tolist()
        return sizes

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each sample, ``[B]`` int64 on the device."""
        return to_device(torch.tensor(self.sizes), self.device)

    @cached_property
    def row_numbers(self) -> Tensor:
        """The row of each position, int32 ``[B, *spatial]``; ``len(self)`` where there is none."""
        numbers = torch.full((self.batch * prod(self.spatial),), len(self), dtype=torch.int32, device=self.device)
        numbers[self.index] = torch.arange(len(self), dtype=torch.int32, device=self.device)
        return numbers.reshape(self.mask.shape)

    def coordinates(self, rows: Tensor | None = None) -> list[Tensor]:
        """Sample and position along each axis of the given rows (all by default), each ``[n]`` int64."""
        rest = self.index if rows is None else self.index[rows]
        axes = []
        for side in reversed(self.spatial):
            axes.append(rest % side)
            rest = rest // side
        return [rest, *reversed(axes)]

    def rows_at(self, places: Sequence[Places], sample: Tensor) -> Tensor:
        """Look up the rows around given positions.

        Args:
            places: for each axis, the positions and what is added to them; they may lie outside the map.
            sample: the sample of each position, ``[n]``.

        Returns:
            ``[n, taps]`` int32, taps in row-major order of the offsets; ``len(self)`` where nothing is computed.
        """
        margins = [place.margins(side) for place, side in zip(places, self.spatial, strict=True)]
        grid = nn.functional.pad(self.row_numbers, [pad for pair in reversed(margins) for pad in pair], value=len(self))
        flat, steps = sample, torch.zeros(1, dtype=torch.int64)
        for place, side, (before, _) in zip(places, grid.shape[1:], margins, strict=True):
            flat = flat * side + place.base + before
            steps = (steps[:, None] * side + torch.tensor(place.offsets)).flatten()
        wanted = flat[:, None] + to_device(steps, self.device)
        return grid.flatten().index_select(0, wanted.flatten()).reshape(wanted.shape)


class Places(NamedTuple):
    """Positions along one axis: ``base + offset`` for every offset.

    - ``base``: ``[n]`` int64;
    - ``low``, ``high``: bounds of ``base``, known without looking at it (which would stall a GPU);
    - ``offsets``: what is added.
    """

    base: Tensor
    low: int
    high: int
    offsets: tuple[int, ...]

    def margins(self, side: int) -> tuple[int, int]:
        """How far the positions reach beyond an axis of ``side`` positions, at its start and its end."""
        return max(0, -self.low - min(self.offsets)), max(0, self.high + max(self.offsets) - side + 1)


class TapGroup(NamedTuple):
    """Inputs that the same taps of a window reach, and where these taps lead from there.

    - ``rows``: ``[n]`` rows of the input; None: all of them, in order;
    - ``taps``: numbers of the taps, row-major in the window; all of them as a slice, which reads without a copy;
    - ``table``: ``[n, len(taps)]`` int32, row of the output that sees the input through the tap; the number of outputs
      where there is none.
    """

    rows: Tensor | None
    taps: list[int] | slice
    table: Tensor

    @property
    def tap_numbers(self) -> Sequence[int]:
        """Numbers of the taps."""
        return range(self.table.shape[1]) if isinstance(self.taps, slice) else self.taps

    def take(self, values: Tensor, part: slice = EVERYTHING) -> Tensor:
        """Rows of ``values`` ``[inputs, C]`` that belong to a part of the group."""
        return values[part] if self.rows is None else values.index_select(0, self.rows[part])

    def put(self, result: Tensor, values: Tensor, part: slice = EVERYTHING) -> None:
        """Write ``values`` ``[n, C]`` to the group's rows of ``result`` ``[inputs, C]``; no other group has them."""
        if self.rows is None:
            result[part] = values
        else:
            result.index_copy_(0, self.rows[part], values)


class Pairs(NamedTuple):
    """Pairs of an input and an output that a window connects, tap by tap.

    - ``inputs``, ``outputs``: ``[P]`` rows, int64;
    - ``parts``: which pairs belong to each tap;
    - ``by_input``, ``by_output``: ``[inputs, taps]`` and ``[outputs, taps]`` int64, number of the pair; ``P`` where
      there is none.
    """

    inputs: Tensor
    outputs: Tensor
    parts: list[slice]
    by_input: Tensor
    by_output: Tensor

    @classmethod
    def of(cls, table: Tensor, inputs: int) -> Pairs:
        """Read the pairs from a stencil's table on the CPU."""
        by_tap = table.T
        exists = by_tap < inputs
        taps, outputs = exists.nonzero().unbind(dim=1)
        rows = by_tap[exists].long()
        ends = exists.sum(dim=1).cumsum(0).tolist()
        parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        numbers = torch.arange(len(rows))
        by_output = torch.full(table.shape, len(rows))
        by_output[outputs, taps] = numbers
        by_input = torch.full((inputs, len(parts)), len(rows))
        by_input[rows, taps] = numbers
        return cls(rows, outputs, parts, by_input, by_output)

    def sum_by_output(self, products: Tensor) -> Tensor:
        """Sum ``[P + 1, C]`` over the pairs of each output; the last row stands for no pair and is overwritten."""
        return _sum_bags(self.by_output, products)

    def sum_by_input(self, products: Tensor) -> Tensor:
        """Sum ``[P + 1, C]`` over the pairs of each input; the last row stands for no pair and is overwritten."""
        return _sum_bags(self.by_input, products)


def _sum_bags(bags: Tensor, products: Tensor) -> Tensor:
    products[-1] = 0
    return nn.functional.embedding_bag(bags, products, mode="sum")


class Stencil:
    """How a window leads from the rows of one packed map to those of another, in both directions.

    Args:
        source: positions of the input.
        target: positions of the output.
        window: geometry between the two.
    """

    def __init__(self, source: Sites, target: Sites, window: Window) -> None:
        self.source, self.target, self.window = source, target, window

    @cached_property
    def table(self) -> Tensor:
        """For each output row and tap the input row, ``[outputs, taps]`` int32; ``len(source)`` where there is none."""
        sample, *axes = self.target.coordinates()
        places = [
            Places(axis * jump - pad, -pad, (side - 1) * jump - pad, tuple(tap * step for tap in range(edge)))
            for axis, side, edge, jump, pad, step in zip(axes, self.target.spatial, *self.window, strict=True)
        ]
        return self.source.rows_at(places, sample)

    @cached_property
    def pairs(self) -> Pairs | None:
        """The pairs that the window connects, where so few exist that treating them singly pays; otherwise None.

        Only on a CPU: their number depends on the mask, and a GPU would have to be asked for it.
        """
        if self.source.device.type != "cpu" or self.table.numel() > MOST_PAIRS:
            return None
        pairs = int((self.table < len(self.source)).sum())
        return Pairs.of(self.table, len(self.source)) if pairs < PAIRED_BELOW * self.table.numel() else None

    @cached_property
    def groups(self) -> list[TapGroup]:
        """The way back: inputs grouped by the taps that reach them (one group unless there is a stride).

        Taps that reach no input are in no group.
        """
        if not len(self.source):
            return []
        if self.source is self.target and self.window.keeps_size:
            # What sees an input through one tap is what the input sees through the opposite tap.
            return [TapGroup(None, EVERYTHING, self.table.flip(1))]
        phases = product(*(range(jump) for jump in self.window.stride))
        groups = [self._group(phase, rows) for phase, rows in zip(phases, self._rows_by_phase(), strict=True)]
        return [group for group in groups if group is not None]

    def empty_gradient(self, values: Tensor) -> Tensor:
        """Memory for the gradient of the inputs, ``[inputs, C]`` like ``values``; zero where no group writes."""
        reached = sum(len(group.table) for group in self.groups) == len(self.source)
        make = values.new_empty if reached else values.new_zeros
        return make(len(self.source), values.shape[1])

    def _group(self, phase: tuple[int, ...], rows: Tensor) -> TapGroup | None:
        """The inputs ``rows``, whose positions are ``phase`` modulo the stride, counted from the padding's start."""
        window = self.window
        taps = [
            [tap for tap in range(edge) if tap * step % jump == part]
            for part, edge, jump, step in zip(phase, window.kernel, window.stride, window.dilation, strict=True)
        ]
        if not all(taps) or not len(rows):
            return None
        sample, *axes = self.source.coordinates(rows)
        places = [
            Places(
                (axis + pad - part) // jump, 0, (side - 1 + pad - part) // jump,
                tuple((part - tap * step) // jump for tap in chosen),
            )
            for axis, side, part, chosen, (_, jump, pad, step) in zip(
                axes, self.source.spatial, phase, taps, zip(*window, strict=True), strict=True
            )
        ]  # fmt: skip
        numbers = torch.arange(window.taps).reshape(window.kernel)
        for axis, chosen in enumerate(taps):
            numbers = numbers.index_select(axis, torch.tensor(chosen))
        whole = len(rows) == len(self.source)
        return TapGroup(None if whole else rows, numbers.flatten().tolist(), self.target.rows_at(places, sample))

    def _rows_by_phase(self) -> list[Tensor]:
        """Rows of the input at each phase, in row-major order; found on the host, where their numbers are needed."""
        axes = self.source.mask.nonzero().unbind(dim=1)[1:]
        phase = torch.zeros_like(axes[0])
        for axis, jump, pad in zip(axes, self.window.stride, self.window.padding, strict=True):
            phase = phase * jump + (axis + pad) % jump
        counts = torch.bincount(phase, minlength=prod(self.window.stride)).tolist()
        return [to_device(rows, self.source.device) for rows in phase.argsort(stable=True).split(counts)]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor from the host to a device without making the host wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
