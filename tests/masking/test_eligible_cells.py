# SPDX-License-Identifier: Apache-2.0
"""Every strategy on scans of which only some cells take part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from custom.masking import MaskSample, RandomMasking, RegionMasking, RegionMatchedRandom, mask_info

STRATEGIES = {
    "random": RandomMasking(0.6),
    "random, exact": RandomMasking(visible_cells=5),
    "region": RegionMasking(),
    "region, exact": RegionMasking(visible_cells=5),
    "region, least": RegionMasking(0.95, 0.9, min_visible=6),
    "soft": RegionMasking(soft=True),
    "soft, exact": RegionMasking(soft=True, visible_cells=5),
    "matched": RegionMatchedRandom(),
    "matched soft": RegionMatchedRandom(soft=True),
}
EVERY = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
GRIDS = pytest.mark.parametrize("grid", [(6, 7), (3, 4, 4)], ids=["2D", "3D"])


def scans(grid: tuple[int, ...], batch: int = 24) -> tuple[Tensor, Tensor]:
    """Coverages with small, large, empty and full regions, and eligible cells from none to all."""
    generator = torch.Generator().manual_seed(2)
    coverage = torch.rand(batch, *grid, generator=generator) ** 5
    coverage[0], coverage[1] = 0, 1
    shares = torch.linspace(0, 1, batch).reshape(-1, *(1 for _ in grid))
    return coverage, torch.rand(batch, *grid, generator=generator) < shares


def visible_counts(drawn: MaskSample) -> list[int]:
    return drawn.visible.flatten(1).sum(1).tolist()


def first(count: int, cells: int = 20) -> Tensor:
    return (torch.arange(cells) < count)[None]


@EVERY
@GRIDS
def test_no_other_cell_is_visible_and_something_is_always_hidden(strategy: RandomMasking, grid: tuple) -> None:
    coverage, eligible = scans(grid)
    drawn = strategy.sample(coverage, torch.Generator().manual_seed(0), eligible=eligible)
    assert drawn.eligible is not None
    enough = eligible.flatten(1).sum(1) >= 2
    assert torch.equal(drawn.eligible[enough], eligible[enough])
    assert drawn.eligible[~enough].all()
    assert not (drawn.visible & ~drawn.eligible).any()
    assert not (drawn.region & ~drawn.eligible).any()
    for seen, taking_part in zip(drawn.visible, drawn.eligible, strict=True):
        assert 1 <= int(seen.sum()) < int(taking_part.sum())


@EVERY
@GRIDS
def test_all_eligible_draws_what_none_draws(strategy: RandomMasking, grid: tuple) -> None:
    coverage, _ = scans(grid)
    plain = strategy.sample(coverage, torch.Generator().manual_seed(4))
    everyone = strategy.sample(
        coverage, torch.Generator().manual_seed(4), eligible=torch.ones_like(coverage, dtype=torch.bool)
    )
    assert plain.eligible is None
    for name in ("visible", "region", "fallback"):
        assert torch.equal(getattr(plain, name), getattr(everyone, name)), name


@EVERY
def test_a_mask_does_not_depend_on_batch_mates(strategy: RandomMasking) -> None:
    coverage, eligible = scans((6, 7))
    drawn = strategy.sample(coverage, torch.Generator().manual_seed(7), eligible=eligible)
    changed = coverage.clone(), eligible.clone()
    changed[0][12:], changed[1][12:] = 0.5, True
    again = strategy.sample(changed[0], torch.Generator().manual_seed(7), eligible=changed[1])
    assert torch.equal(drawn.visible[:12], again.visible[:12])


def test_random_ratios_count_eligible_cells(generator: torch.Generator) -> None:
    eligible = torch.cat([first(20), first(10), first(5)])
    drawn = RandomMasking(0.6).sample(torch.zeros(3, 20), generator, eligible=eligible)
    assert visible_counts(drawn) == [8, 4, 2]


def test_region_ratios_count_eligible_cells_of_each_kind(generator: torch.Generator) -> None:
    coverage = first(10).float()  # 10 region cells, of which 5 take part, and 10 others, of which 8 do
    eligible = torch.ones(1, 20, dtype=torch.bool)
    eligible[0, [0, 1, 2, 3, 4, 18, 19]] = False
    drawn = RegionMasking(0.8, 0.25).sample(coverage, generator, eligible=eligible)
    assert int(drawn.region.sum()) == 5
    assert int((drawn.visible & drawn.region).sum()) == 1
    assert visible_counts(drawn) == [1 + 6]
    assert not drawn.fallback.any()


@pytest.mark.parametrize("strategy", [RandomMasking(visible_cells=6), RegionMasking(visible_cells=6)])
def test_an_exact_budget_is_met_where_the_scan_allows(strategy: RandomMasking, generator: torch.Generator) -> None:
    eligible = torch.cat([first(20), first(7), first(6), first(2)])
    drawn = strategy.sample(first(3).float().expand(4, -1), generator, eligible=eligible)
    assert visible_counts(drawn) == [6, 6, 5, 1]


@pytest.mark.parametrize("strategy", [RegionMasking(fallback_ratio=0.5), RegionMatchedRandom(fallback_ratio=0.5)])
def test_a_region_in_empty_space_or_all_over_the_rest_falls_back(
    strategy: RegionMasking, generator: torch.Generator
) -> None:
    inside, outside = first(8), ~first(8)
    coverage = torch.cat([inside, inside, inside]).float()
    drawn = strategy.sample(coverage, generator, eligible=torch.cat([inside, outside, inside | outside]))
    assert drawn.fallback.tolist() == [True, True, False]
    assert visible_counts(drawn)[:2] == [4, 6]


def test_soft_contrast_is_that_of_eligible_cells(generator: torch.Generator) -> None:
    coverage = torch.linspace(0, 1, 20)[None].where(~first(8), torch.tensor(0.4))
    drawn = RegionMasking(soft=True).sample(coverage, generator, eligible=first(8))
    assert drawn.fallback.tolist() == [True]


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"min_visible": 9}])
def test_matched_random_shows_as_many_cells(options: dict, generator: torch.Generator) -> None:
    coverage, eligible = scans((6, 7))
    region = RegionMasking(0.8, 0.4, **options).sample(coverage, generator, eligible=eligible)
    matched = RegionMatchedRandom(0.8, 0.4, **options).sample(coverage, generator, eligible=eligible)
    assert visible_counts(region) == visible_counts(matched)


def test_eligible_cells_are_chosen_uniformly(generator: torch.Generator) -> None:
    eligible = torch.arange(12) % 3 > 0
    drawn = RandomMasking(0.5).sample(torch.zeros(6000, 12), generator, eligible=eligible.expand(6000, -1))
    seen = drawn.visible.double().mean(0)
    assert torch.allclose(seen, 0.5 * eligible.double(), atol=0.03)


@EVERY
def test_strategies_consume_the_generator_alike(strategy: RandomMasking) -> None:
    coverage, eligible = scans((6, 7))
    used, reference = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    strategy.sample(coverage, used, eligible=eligible)
    torch.rand(len(coverage), 42, dtype=torch.float64, generator=reference)
    assert torch.equal(used.get_state(), reference.get_state())


def test_realised_ratios_are_those_of_eligible_cells() -> None:
    visible = torch.tensor([[True, False, False, False, True, False, False, False]])
    region = torch.tensor([[True, True, True, False, False, False, False, False]])
    info = mask_info(MaskSample(visible, region, torch.tensor([False]), first(5, 8)))
    assert {name: float(value) for name, value in info.items()} == pytest.approx(
        {
            "hidden_ratio": 3 / 5,
            "region_hidden_ratio": 2 / 3,
            "background_hidden_ratio": 1 / 2,
            "region_share": 3 / 5,
            "fallback": 0.0,
            "empty_share": 3 / 8,
        }
    )


@pytest.mark.parametrize("eligible", [torch.ones(1, 20), torch.ones(2, 20, dtype=torch.bool)])
def test_wrong_type_or_shape(eligible: Tensor, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"boolean \(1, 20\)"):
        RandomMasking(0.6).sample(torch.zeros(1, 20), generator, eligible=eligible)
