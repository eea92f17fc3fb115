# SPDX-License-Identifier: Apache-2.0
"""Region masks: the paper's counts, budgets, floors, fallbacks, soft regions and the matched control."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from custom.masking import RandomMasking, RegionMasking, RegionMatchedRandom
from custom.masking.base import region_cells

PRESETS = [("0.8", "0.4"), ("0.7", "0.3"), ("0.6", "0.2")]


def half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)


def first_cells(counts: list[int], cells: int, grid: tuple[int, ...] | None = None) -> Tensor:
    """A coverage whose sample ``i`` has its first ``counts[i]`` cells wholly covered."""
    coverage = (torch.arange(cells) < torch.tensor(counts)[:, None]).float()
    return coverage if grid is None else coverage.reshape(-1, *grid)


def split_counts(visible: Tensor, region: Tensor) -> tuple[list[int], list[int]]:
    visible, region = visible.flatten(1), region.flatten(1)
    return (visible & region).sum(1).tolist(), (visible & ~region).sum(1).tolist()


@pytest.mark.parametrize("ratios", PRESETS)
@pytest.mark.parametrize("grid", [(7, 7), (4, 5, 6)])
def test_paper_rule_for_every_region_size(ratios: tuple[str, str], grid: tuple, generator: torch.Generator) -> None:
    cells = torch.Size(grid).numel()
    sizes = list(range(1, cells))
    drawn = RegionMasking(float(ratios[0]), float(ratios[1])).sample(first_cells(sizes, cells, grid), generator)
    inside, outside = split_counts(drawn.visible, drawn.region)
    assert inside == [half_up((1 - Fraction(ratios[0])) * n) for n in sizes]
    assert outside == [half_up((1 - Fraction(ratios[1])) * (cells - n)) for n in sizes]
    assert not drawn.fallback.any()


def test_five_cells_at_four_fifths_keep_one(generator: torch.Generator) -> None:
    drawn = RegionMasking(0.8, 0.4).sample(first_cells([5, 10], 49), generator)
    assert split_counts(drawn.visible, drawn.region)[0] == [1, 2]


def test_cells_are_uniform_within_region_and_background(generator: torch.Generator) -> None:
    draws = 6000
    drawn = RegionMasking(0.7, 0.3).sample(first_cells([10], 30).expand(draws, -1), generator)
    seen = drawn.visible.sum(0).double()
    for part, kept in ((seen[:10], 3), (seen[10:], 14)):
        share = kept / len(part)
        statistic = ((part - draws * share) ** 2 / (draws * share)).sum() / (1 - share)
        assert statistic < 45.0  # 99.9 % point of chi-square with 19 degrees of freedom is 43.8


@pytest.mark.parametrize("side", [2, 8, 12, 20])
def test_a_small_lesion_never_vanishes(side: int) -> None:
    found_by_corners, places = 0, range(0, 224 - side, 11)
    for start in places:
        image = torch.zeros(1, 224, 224)
        image[:, start : start + side, start : start + side] = 1
        coverage = torch.nn.functional.avg_pool2d(image[None], 32)[:, 0]
        assert region_cells(coverage.flatten(1)).any()
        found_by_corners += int(torch.nn.functional.interpolate(image[None], size=(7, 7), mode="nearest").any())
    assert found_by_corners < len(places)


def test_threshold_divides_the_cells() -> None:
    coverage = torch.tensor([[0.0, 0.04, 0.05, 0.9], [0.0, 0.001, 0.002, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[False, False, True, True], [False, False, True, False], [False] * 4]
    assert region_cells(coverage.double(), 0.05).tolist() == expected


@pytest.mark.parametrize("cls", [RegionMasking, RegionMatchedRandom])
def test_empty_and_full_regions_fall_back_at_the_mean_ratio(cls: type, generator: torch.Generator) -> None:
    drawn = cls(0.7, 0.3).sample(first_cells([0, 49, 10], 49, (7, 7)), generator)
    assert drawn.fallback.tolist() == [True, True, False]
    assert drawn.visible.flatten(1).sum(1).tolist() == [25, 25, 3 + 27]


def test_fallback_ratio_and_budget_set_the_fallback(generator: torch.Generator) -> None:
    coverage = first_cells([0, 49], 49)
    assert RegionMasking(fallback_ratio=0.4).sample(coverage, generator).visible.sum(1).tolist() == [29, 29]
    assert RegionMasking(visible_cells=20).sample(coverage, generator).visible.sum(1).tolist() == [20, 20]


def test_fallback_masks_are_uniform(generator: torch.Generator) -> None:
    seen = RegionMasking().sample(torch.zeros(4000, 10), generator).visible.double().mean(0)
    assert torch.allclose(seen, torch.full_like(seen, 0.5), atol=0.03)


@pytest.mark.parametrize("cls", [RegionMasking, RegionMatchedRandom])
@pytest.mark.parametrize("budget", [1, 7, 20, 33, 48])
@pytest.mark.parametrize("ratios", [(0.7, 0.3), (0.3, 0.7), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (1.0, 0.3), (0.7, 0.0)])
def test_exact_budget_for_every_region_size(
    cls: type, budget: int, ratios: tuple[float, float], generator: torch.Generator
) -> None:
    sizes = list(range(50))
    drawn = cls(*ratios, visible_cells=budget).sample(first_cells(sizes, 49), generator)
    assert drawn.visible.sum(1).tolist() == [budget] * 50


@pytest.mark.parametrize("ratios", [(0.7, 0.3), (0.8, 0.4), (0.2, 0.9), (0.5, 0.5)])
def test_exact_budget_keeps_the_odds_ratio(ratios: tuple[float, float], generator: torch.Generator) -> None:
    cells, size, budget = 40_000, 9_000, 15_000
    drawn = RegionMasking(*ratios, visible_cells=budget).sample(first_cells([size], cells), generator)
    (inside,), (outside,) = split_counts(drawn.visible, drawn.region)
    odds = (inside / (size - inside)) / (outside / (cells - size - outside))
    wanted = ((1 - ratios[0]) / ratios[0]) / ((1 - ratios[1]) / ratios[1])
    assert odds == pytest.approx(wanted, rel=2e-3)


def test_budget_equal_to_the_rules_total_gives_the_rules_counts(generator: torch.Generator) -> None:
    drawn = RegionMasking(0.7, 0.3, visible_cells=30).sample(first_cells([10], 49), generator)
    assert split_counts(drawn.visible, drawn.region) == ([3], [27])


def test_full_ratio_hides_the_region_until_the_budget_needs_it(generator: torch.Generator) -> None:
    masking = RegionMasking(1.0, 0.3, visible_cells=20)
    drawn = masking.sample(first_cells([10, 29, 35], 49), generator)
    assert split_counts(drawn.visible, drawn.region)[0] == [0, 0, 6]


def test_floor_of_visible_cells(generator: torch.Generator) -> None:
    drawn = RegionMasking(0.95, 0.9, min_visible=8).sample(first_cells([20, 0, 49], 49), generator)
    assert drawn.visible.sum(1).tolist() == [8, 8, 8]


def test_something_is_always_hidden(generator: torch.Generator) -> None:
    drawn = RegionMasking(0.4, 0.0).sample(first_cells([1], 9), generator)
    assert split_counts(drawn.visible, drawn.region) == ([0], [8])


def test_soft_counts_and_order(generator: torch.Generator) -> None:
    coverage = torch.linspace(0, 1, 20).expand(3000, -1)
    drawn = RegionMasking(0.8, 0.2, soft=True).sample(coverage, generator)
    assert drawn.visible.sum(1).unique().tolist() == [10]
    seen = drawn.visible.double().mean(0)
    assert torch.all(seen[:-1] > seen[1:] - 0.04)
    assert seen[0] == pytest.approx(0.8, abs=0.05)
    assert seen[-1] == pytest.approx(0.2, abs=0.05)


def test_soft_falls_back_only_without_contrast(generator: torch.Generator) -> None:
    coverage = torch.stack([torch.zeros(20), torch.ones(20), torch.linspace(0.2, 1, 20)])
    assert RegionMasking(soft=True).sample(coverage, generator).fallback.tolist() == [True, True, False]


def test_soft_exact_budget(generator: torch.Generator) -> None:
    coverage = torch.rand(9, 5, 5, generator=generator)
    drawn = RegionMasking(1.0, 0.0, soft=True, visible_cells=6).sample(coverage, generator)
    assert drawn.visible.flatten(1).sum(1).tolist() == [6] * 9


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"min_visible": 30}, {"fallback_ratio": 0.2}])
def test_matched_random_shows_as_many_cells(options: dict, generator: torch.Generator) -> None:
    coverage = torch.rand(60, 4, 4, 4, generator=generator) * torch.linspace(0, 1, 60).reshape(-1, 1, 1, 1) ** 3
    region = RegionMasking(0.8, 0.4, **options).sample(coverage, generator)
    matched = RegionMatchedRandom(0.8, 0.4, **options).sample(coverage, generator)
    assert torch.equal(region.visible.flatten(1).sum(1), matched.visible.flatten(1).sum(1))
    assert torch.equal(region.region, matched.region)
    assert torch.equal(region.fallback, matched.fallback)


def test_matched_random_ignores_where_the_region_is(generator: torch.Generator) -> None:
    coverage = first_cells([10], 30).expand(4000, -1)
    seen = RegionMatchedRandom(0.8, 0.4).sample(coverage, generator).visible.double().mean(0)
    assert torch.allclose(seen, torch.full_like(seen, 14 / 30), atol=0.03)


@pytest.mark.parametrize(
    "strategy", [RandomMasking(0.6), RegionMasking(), RegionMatchedRandom(), RegionMasking(soft=True)]
)
def test_a_mask_does_not_depend_on_batch_mates(strategy: RegionMasking) -> None:
    coverage = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(1)) ** 6
    others = torch.cat([coverage[:2], torch.zeros(1, 6, 6), torch.ones(3, 6, 6)])
    drawn = strategy.sample(coverage, torch.Generator().manual_seed(7)).visible
    with_others = strategy.sample(others, torch.Generator().manual_seed(7)).visible
    assert torch.equal(drawn[:2], with_others[:2])


@pytest.mark.parametrize("strategy", [RandomMasking(0.6), RegionMasking(), RegionMatchedRandom(visible_cells=9)])
def test_strategies_consume_the_generator_alike(strategy: RegionMasking) -> None:
    used, reference = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    strategy.sample(torch.rand(3, 6, 6), used)
    torch.rand(3, 36, dtype=torch.float64, generator=reference)
    assert torch.equal(used.get_state(), reference.get_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region_ratio": 1.1}, "region_ratio"),
        ({"background_ratio": -0.1}, "background_ratio"),
        ({"fallback_ratio": 2}, "fallback_ratio"),
        ({"threshold": 0}, "threshold"),
        ({"min_visible": 0}, "min_visible"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionMasking(**arguments)


@pytest.mark.parametrize("arguments", [{"min_visible": 9}, {"visible_cells": 9}])
def test_grid_too_small_for_the_budget(arguments: dict, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="9"):
        RegionMasking(**arguments).sample(torch.zeros(1, 3, 3), generator)
