# SPDX-License-Identifier: Apache-2.0
"""Random masks: exact counts, uniformity, independence."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from custom.masking import RandomMasking
from custom.masking.base import choose_exactly, round_half_up


def half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)


@pytest.mark.parametrize("ratio", ["0.1", "0.2", "0.3", "0.4", "0.6", "0.7", "0.75", "0.8", "0.9", "0.95"])
def test_rounding_is_half_up_for_every_count(ratio: str) -> None:
    counts = torch.arange(2000)
    rounded = round_half_up((1 - float(ratio)) * counts.double())
    assert rounded.tolist() == [half_up((1 - Fraction(ratio)) * n) for n in range(2000)]


def test_rounding_repairs_the_float_error_of_one_minus_ratio() -> None:
    assert (1 - 0.9) * 5 < 0.5
    assert int(round_half_up(torch.tensor((1 - 0.9) * 5, dtype=torch.float64))) == 1


@pytest.mark.parametrize("grid", [(7, 7), (3, 4), (2, 3, 4), (16,)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 0.7, 0.95, 1.0])
def test_every_sample_shows_the_same_exact_number(grid: tuple, ratio: float, generator: torch.Generator) -> None:
    drawn = RandomMasking(ratio).sample(torch.zeros(5, *grid), generator)
    cells = torch.Size(grid).numel()
    expected = min(max(half_up((1 - Fraction(str(ratio))) * cells), 1), cells - 1)
    assert drawn.visible.shape == (5, *grid)
    assert drawn.visible.dtype == torch.bool
    assert drawn.visible.flatten(1).sum(1).tolist() == [expected] * 5
    assert not drawn.fallback.any()


def test_exact_budget(generator: torch.Generator) -> None:
    drawn = RandomMasking(visible_cells=15).sample(torch.zeros(4, 7, 7), generator)
    assert drawn.visible.flatten(1).sum(1).tolist() == [15] * 4


def test_cells_are_chosen_uniformly(generator: torch.Generator) -> None:
    draws, cells, kept = 6000, 12, 4
    visible = RandomMasking(visible_cells=kept).sample(torch.zeros(draws, 3, 4), generator).visible.flatten(1)
    expected = draws * kept / cells
    # For a choice without replacement the statistic's mean is cells - 1 once divided by the share left out.
    statistic = ((visible.sum(0) - expected) ** 2 / expected).sum() / (1 - kept / cells)
    assert statistic < 31.3  # 99.9 % point of chi-square with 11 degrees of freedom
    pairs = (visible[:, 0] & visible[:, 1]).float().mean()
    assert pairs == pytest.approx(kept * (kept - 1) / (cells * (cells - 1)), abs=0.012)


def test_same_generator_state_same_mask() -> None:
    draw = lambda: RandomMasking(0.6).sample(torch.zeros(2, 7, 7), torch.Generator().manual_seed(3)).visible  # noqa: E731
    assert torch.equal(draw(), draw())


def test_ties_do_not_change_the_count() -> None:
    chosen = choose_exactly(torch.full((2, 9), 0.5, dtype=torch.float64), torch.tensor([4, 0]))
    assert chosen.sum(1).tolist() == [4, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "ratio or visible_cells"),
        ({"ratio": 0.5, "visible_cells": 3}, "ratio or visible_cells"),
        ({"ratio": 1.2}, "1.2"),
        ({"ratio": float("nan")}, "nan"),
        ({"ratio": 0.5, "threshold": 0.0}, "threshold"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMasking(**arguments)


@pytest.mark.parametrize("visible_cells", [0, 49, 60])
def test_budget_that_the_grid_does_not_allow(visible_cells: int, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="between 1 and 48"):
        RandomMasking(visible_cells=visible_cells).sample(torch.zeros(1, 7, 7), generator)


@pytest.mark.parametrize(
    ("coverage", "message"),
    [
        (torch.zeros(2, 1, 1), "1 cell"),
        (torch.zeros(4), "must be"),
        (torch.full((1, 2, 2), 1.5), "1.5"),
        (torch.full((1, 2, 2), float("nan")), "nan"),
    ],
)
def test_bad_coverage(coverage: torch.Tensor, message: str, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMasking(0.6).sample(coverage, generator)
