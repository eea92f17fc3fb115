# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the information bottleneck, as far as it goes without the authors' code."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import m2ib


@pytest.fixture(scope="module")
def pair():
    with torch.random.fork_rng():
        return m2ib.build(quick=True)


@pytest.mark.parametrize("layer", [0, 7, 10])
def test_both_halves_of_the_tower_make_the_whole(pair, layer):
    tower = m2ib.ClipTower(pair)
    pixels = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = tower.suffix(tower.prefix(pixels, layer), layer)
        torch.testing.assert_close(found, pair.get_image_features(pixels), atol=1e-4, rtol=1e-4)
    assert tower.grid == (7, 7)


def test_our_contenders_make_maps(pair):
    pixels = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    runs = m2ib.contenders(pair, methods=None, layer=9, beta=0.1)
    for name in (m2ib.OURS, m2ib.GRADIENT):
        found = runs[name](pixels, torch.tensor([[49406, 5, 49407]]))
        assert found.shape == (224, 224)
        assert (float(found.min()), float(found.max())) == pytest.approx((0, 1))


def test_shares_are_of_the_same_round_and_rounds_that_are_not_complete_do_not_count():
    names = (m2ib.PUBLIC, m2ib.FROZEN, m2ib.OURS, m2ib.GRADIENT)
    seconds = {0: (10.0, 4.0, 1.0, 0.1), 1: (20.0, 9.0, 4.0, 0.1), 2: (99.0, 99.0)}
    rows = [
        {"layer": 7, "round": turn, "contender": name, "seconds": value, "map": torch.full((2, 2), value / 100)}
        for turn, values in seconds.items()
        for name, value in zip(names, values, strict=False)
    ]
    lines = {line["contender"]: line for line in m2ib.table(rows, beta=0.1)}
    assert list(lines) == list(names)
    assert lines[m2ib.OURS]["share"] == "0.150 [0.100, 0.200]"
    assert lines[m2ib.PUBLIC]["CPU s"] == "15.00 [10.00, 20.00]"
    assert lines[m2ib.OURS]["rounds"] == "2"
    assert lines[m2ib.OURS]["map"] == "1.6e-01"
    assert lines[m2ib.GRADIENT]["map"] == "–"
