# SPDX-License-Identifier: Apache-2.0
"""Arms, budgets and pairs of seeds."""

from __future__ import annotations

import pytest
import torch

from custom.components import load_component
from custom.workflows.study.plan import Condition, Pair, listed, load_arms, make_pairs, visible_cells


@pytest.mark.parametrize(
    ("ratio", "image_size", "cell_size", "count"),
    [(0.6, [96, 96], 8, 58), (0.5, [10, 10], 5, 2), (0.9, [5, 10], 5, 1), (0.75, [16, 16, 8], [8, 8, 4], 2)],
)
def test_a_ratio_becomes_a_number_of_cells(ratio, image_size, cell_size, count):
    if (ratio, count) == (0.9, 1):
        with pytest.raises(ValueError, match="of 2 cells leaves 0 visible"):
            visible_cells(ratio, image_size, cell_size)
    else:
        assert visible_cells(ratio, image_size, cell_size) == count


def test_all_arms_show_as_many_cells(configs, generator):
    coverage = torch.zeros(3, 8, 8)
    coverage[0, :2, :3] = 1
    coverage[1, 4, 4] = 0.2  # the third scan has no region
    for arm in load_arms(configs / "masking", ["random", "spark", "region", "region_high", "region_matched_random"]):
        strategy = load_component(configs / "masking", arm.masking, arm.options(20))
        drawn = strategy.sample(coverage, generator)
        assert drawn.visible.flatten(1).sum(dim=1).tolist() == [20, 20, 20], arm.name
        assert arm.guided == (arm.name in ("region", "region_high"))
        assert arm.options(None) == {}


def test_at_equal_budgets_the_matched_control_is_random_masking(configs):
    coverage = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(1))
    drawn = []
    for arm in load_arms(configs / "masking", ["random", "region_matched_random"]):
        strategy = load_component(configs / "masking", arm.masking, arm.options(10))
        drawn.append(strategy.sample(coverage, torch.Generator().manual_seed(0)).visible)
    assert torch.equal(*drawn)


def test_arms_that_cannot_be_compared(configs, tmp_path):
    with pytest.raises(ValueError, match="No component 'regions'"):
        load_arms(configs / "masking", ["regions"])
    with pytest.raises(ValueError, match="random is named twice"):
        load_arms(configs / "masking", ["random", "random"])
    own = tmp_path / "own.yaml"
    own.write_text("_target_: custom.masking.RegionMasking\nmin_visible: 3\n")
    (arm,) = load_arms(configs / "masking", [str(own)])
    assert (arm.name, arm.options(5)) == ("own", {"visible_cells": 5})
    own.write_text("_target_: types.SimpleNamespace\nneeds_region: false\n")
    (arm,) = load_arms(configs / "masking", [str(own)])
    assert not arm.guided


def test_seeds_come_in_pairs():
    assert make_pairs([4, 5], [7, 8]) == [Pair(0, 4, 7, 0), Pair(1, 5, 8, 1)]
    assert [pair.unit for pair in make_pairs([0, 1, 2], [9])] == [0, 1, 2]  # one encoder: fine-tunings are units
    turns = make_pairs([0, 1, 2, 3], [5, 6])
    assert [(pair.pretrain_seed, pair.unit) for pair in turns] == [(5, 0), (6, 1), (5, 0), (6, 1)]
    for seeds, pretrain_seeds in (([0, 1, 2], [0, 1]), ([], [0]), ([0], []), ([1, 1], [0])):
        with pytest.raises(ValueError, match="seeds"):
            make_pairs(seeds, pretrain_seeds)


def test_names():
    assert (Condition("region", 0.6).name, Condition("region").folder) == ("region 0.6", "region")
    assert Condition("my arm/é", 0.75).folder == "my_arm_é_0.75"


def test_lists_from_the_command_line():
    assert listed("[random, region]", "arms") == ["random", "region"]
    assert listed("[0.5, 0.7]", "ratios") == [0.5, 0.7]
    assert listed("random", "arms") == ["random"]
    assert listed(3, "seeds") == [3]
    assert listed("null", "ratios") == listed(None, "ratios") == []
    with pytest.raises(ValueError, match="--arms must be a list"):
        listed([{"a": 1}], "arms")
