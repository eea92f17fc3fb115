# SPDX-License-Identifier: Apache-2.0
"""Protocol of the mask strategies, and the exact sampling that they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

DEFAULT_THRESHOLD = 0.05


class MaskSample(NamedTuple):
    """What a strategy drew for a batch.

    - ``visible``: boolean ``[B, *grid]``, True where the network may see the cell.
    - ``region``: boolean ``[B, *grid]``, True where the cell counts as region.
    - ``fallback``: boolean ``[B]``, True where the strategy could not use the region and drew at random instead.
    - ``eligible``: boolean ``[B, *grid]``, True where the cell took part in the draw; None: all did.
    """

    visible: Tensor
    region: Tensor
    fallback: Tensor
    eligible: Tensor | None = None


@runtime_checkable
class MaskStrategy(Protocol):
    """Draws the visible cells of a batch of scans.

    A sample's mask depends on its own coverage, the generator's state and its position in the batch, never on
    the content of its batch mates.
    """

    @property
    def needs_region(self) -> bool:
        """Whether the strategy is meaningless without a region map."""

    def sample(
        self,
        coverage: Tensor,
        generator: torch.Generator,
        *,
        image: Tensor | None = None,
        scores: Tensor | None = None,
        eligible: Tensor | None = None,
    ) -> MaskSample:
        """Draw masks.

        Args:
            coverage: share of each cell that the region covers, ``[B, *grid]`` in [0, 1].
            generator: source of all randomness; every strategy here draws ``B * cells`` uniform numbers from it.
            image: the scans ``[B, C, *spatial]``, for strategies that look at them.
            scores: a number per cell ``[B, *grid]``, for strategies that follow the network's own state.
            eligible: boolean ``[B, *grid]``, True where a cell takes part; None: all do. Ratios and budgets count
                eligible cells only, and no other cell is visible. At least one eligible cell is hidden: a scan with
                fewer of them than a budget asks for shows all but one. A scan with fewer than two has nothing to
                predict from the rest; all its cells take part, as the returned ``eligible`` says.
        """


class FlatCells(NamedTuple):
    """The cells of a batch in rows, ``[B, cells]`` each.

    - ``coverage``: float64 in [0, 1]; 0 where a cell does not take part.
    - ``region``: boolean, True where a cell counts as region.
    - ``eligible``: boolean, True where a cell takes part; at least two in each row.
    """

    coverage: Tensor
    region: Tensor
    eligible: Tensor


def read_cells(coverage: Tensor, eligible: Tensor | None, threshold: float) -> FlatCells:
    """Flatten and check what a strategy is given.

    Args:
        coverage: ``[B, *grid]`` in [0, 1].
        eligible: boolean ``[B, *grid]``; None: all cells take part, as they do in a row with fewer than two.
        threshold: see :func:`region_cells`.

    Raises:
        ValueError: see :func:`flat_coverage`; or if ``eligible`` has another type or shape.
    """
    flat = flat_coverage(coverage)
    taking_part = torch.ones_like(flat, dtype=torch.bool)
    if eligible is not None:
        if eligible.dtype != torch.bool or eligible.shape != coverage.shape:
            raise ValueError(
                f"Eligible cells must be boolean {tuple(coverage.shape)} like the coverage, received "
                f"{eligible.dtype} {tuple(eligible.shape)}."
            )
        given = eligible.reshape(flat.shape).to(flat.device)
        taking_part = given | (given.sum(dim=1, keepdim=True) < 2)
    flat = flat.masked_fill(~taking_part, 0)
    return FlatCells(flat, region_cells(flat, threshold), taking_part)


def as_sample(cells: FlatCells, visible: Tensor, fallback: Tensor, coverage: Tensor, restricted: bool) -> MaskSample:
    """Bring rows of cells back to the grid of ``coverage``; ``restricted``: whether some cells could not take part."""
    eligible = cells.eligible.reshape(coverage.shape) if restricted else None
    return MaskSample(visible.reshape(coverage.shape), cells.region.reshape(coverage.shape), fallback, eligible)


def flat_coverage(coverage: Tensor) -> Tensor:
    """Check a coverage ``[B, *grid]`` and return it as ``[B, cells]`` float64.

    Raises:
        ValueError: if it has no grid, fewer than two cells, or values outside [0, 1].
    """
    if coverage.ndim < 2:
        raise ValueError(f"A coverage must be [B, *grid], received the shape {tuple(coverage.shape)}.")
    flat = coverage.reshape(coverage.shape[0], -1).to(torch.float64)
    if flat.shape[1] < 2:
        raise ValueError(
            f"A grid of {tuple(coverage.shape[1:])} has {flat.shape[1]} cell: nothing can be hidden and still be "
            "predicted from the rest. Use smaller cells or larger images."
        )
    # A comparison with NaN is False, so this refuses NaN as well.
    if not bool(((flat >= -1e-6) & (flat <= 1 + 1e-6)).all()):
        raise ValueError(
            f"A coverage must lie in [0, 1], received values from {float(flat.min())} to {float(flat.max())}. "
            "Check the localizer's map: it must hold probabilities."
        )
    return flat.clamp(0, 1)


def region_cells(coverage: Tensor, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """Cells that count as region: covered by at least ``threshold``, and the most covered cell of each sample.

    A lesion smaller than a cell therefore never vanishes, wherever it lies, as it does when the map is read at
    the corners of the cells.

    Args:
        coverage: ``[B, cells]`` in [0, 1].
        threshold: in (0, 1].

    Returns:
        Boolean ``[B, cells]``; all False for a sample whose coverage is zero everywhere.
    """
    most = coverage.amax(dim=1, keepdim=True)
    return (coverage > 0) & ((coverage >= threshold) | (coverage == most))


def round_half_up(values: Tensor) -> Tensor:
    """Nearest integer of non-negative float64 values, halves upwards, as ``int64``.

    The tolerance repairs products such as ``(1 - 0.9) * 5 = 0.4999999999999999``, which is meant to be a half.
    """
    return torch.floor(values + 0.5 + 1e-9).to(torch.int64)


def uniform_keys(like: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform number in (0, 1) per cell of ``like`` ``[B, cells]``, drawn where the generator lives."""
    keys = torch.rand(like.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return keys.clamp_min(torch.finfo(torch.float64).tiny).to(like.device)


def limited(total: Tensor, eligible: Tensor, least: int = 1) -> Tensor:
    """Return ``total`` ``[B]``, but at least ``least`` and at most all but one of the eligible cells of each row."""
    return torch.minimum(total.clamp_min(least), eligible.sum(dim=1) - 1)


def choose_exactly(keys: Tensor, count: Tensor, eligible: Tensor | None = None) -> Tensor:
    """Mark exactly ``count`` cells of each row: the eligible ones with the largest keys.

    Args:
        keys: ``[B, cells]``; independent uniform keys give a uniform choice without replacement.
        count: ``[B]`` integers, at most the number of eligible cells of the row.
        eligible: boolean ``[B, cells]``; None allows all.

    Returns:
        Boolean ``[B, cells]``.
    """
    if eligible is not None:
        keys = keys.masked_fill(~eligible, -torch.inf)
    order = keys.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(keys.shape[1], device=keys.device).expand_as(order))
    return rank < count[:, None]


def check_ratio(name: str, value: float) -> float:
    """Return a hiding ratio as float; raise ValueError if it is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1] (share of cells to hide), received {value}.")
    return float(value)


def check_threshold(threshold: float) -> float:
    """Return a coverage threshold as float; raise ValueError if it is not in (0, 1]."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1] (share of a cell under the region), received {threshold}.")
    return float(threshold)


def check_budget(visible_cells: int, cells: int) -> None:
    """Raise ValueError unless a grid of ``cells`` can show exactly ``visible_cells`` and still hide one."""
    if not 0 < visible_cells < cells:
        raise ValueError(
            f"visible_cells must lie between 1 and {cells - 1} for a grid of {cells} cells, received {visible_cells}. "
            "Change visible_cells, the cell size or the image size."
        )
