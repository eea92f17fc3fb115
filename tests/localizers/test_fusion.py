# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from custom.localizers.fusion import FUSIONS, fuse


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.5, 0.45, 1 / 3]),
        ("max", [0.8, 0.9, 1.0]),
        ("geometric", [(0.8 * 0.5 * 0.2) ** (1 / 3), 0.0, 0.0]),
        ("product", [0.8 * 0.5 * 0.2, 0.0, 0.0]),
        ("vote", [2 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_closed_forms(how, expected):
    maps = torch.tensor([[0.8, 0.9, 1.0], [0.5, 0.45, 0.0], [0.2, 0.0, 0.0]])
    torch.testing.assert_close(fuse(maps, how), torch.tensor(expected))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", 0.25 * 0.8 + 0.75 * 0.2),
        ("geometric", 0.8**0.25 * 0.2**0.75),
        ("product", 0.8**0.5 * 0.2**1.5),
        ("vote", 0.25),
    ],
)
def test_weights(how, expected):
    assert float(fuse(torch.tensor([0.8, 0.2]), how, [1, 3])) == pytest.approx(expected)


@pytest.mark.parametrize("how", sorted(set(FUSIONS) - {"max"}))
def test_a_member_without_weight_does_not_count(how):
    maps = torch.tensor([[0.7, 0.1], [0.0, 0.9]])
    torch.testing.assert_close(fuse(maps, how, [1, 0]), fuse(maps[:1], how) if how != "product" else maps[0] ** 2)


@pytest.mark.parametrize("how", FUSIONS)
def test_equal_members_keep_zeros_and_ones(how):
    maps = torch.tensor([0.0, 1.0]).expand(3, 2)
    torch.testing.assert_close(fuse(maps, how), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("how", "weights", "match"),
    [
        ("median", None, "mean, max"),
        ("max", [1, 1], "no weights"),
        ("mean", [1], "2 numbers"),
        ("mean", [1, -1], "at least 0"),
        ("mean", [0, 0], "not all 0"),
    ],
)
def test_wrong_parameters_are_named(how, weights, match):
    with pytest.raises(ValueError, match=match):
        fuse(torch.zeros(2, 4), how, weights)


def test_nothing_to_combine():
    with pytest.raises(ValueError, match="at least one"):
        fuse(torch.zeros(0, 4))
