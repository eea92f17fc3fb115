# SPDX-License-Identifier: Apache-2.0
"""Visible cells at every resolution, against a loop that follows the definition."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from custom.networks import Visibility


def by_definition(cells: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """A position is visible when any cell that it overlaps is."""
    result = torch.zeros((len(cells), 1, *size), dtype=torch.bool)
    grid = cells.shape[2:]
    for position in product(*(range(side) for side in size)):
        spans = [slice(at * g // s, -(-(at + 1) * g // s)) for at, g, s in zip(position, grid, size, strict=True)]
        result[(slice(None), 0, *position)] = cells[(slice(None), 0, *spans)].flatten(1).any(1)
    return result


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((4, 6), (16, 24)),
        ((4, 6), (4, 6)),
        ((8, 8), (2, 2)),
        ((7, 5), (4, 3)),
        ((4, 4, 2), (8, 8, 4)),
        ((4, 4, 2), (2, 2, 1)),
    ],
)
def test_every_resolution_follows_the_definition(grid, size, generator):
    cells = torch.rand((3, 1, *grid), generator=generator) > 0.6
    assert torch.equal(Visibility(cells, len(grid)).at(size), by_definition(cells, size))


def test_grid_without_channel_axis_is_the_same(generator):
    cells = torch.rand((2, 4, 4), generator=generator) > 0.5
    assert torch.equal(Visibility(cells, 2).at((8, 8)), Visibility(cells[:, None], 2).at((8, 8)))


def test_hide_removes_even_nan():
    cells = torch.tensor([[[True, False]]])
    values = torch.tensor([[[[1.0, float("nan")]]]])
    assert Visibility(cells, 2).hide(values).tolist() == [[[[1.0, 0.0]]]]


@pytest.mark.parametrize("cells", [torch.ones(2, 4, 4), torch.ones(2, 2, 4, 4, dtype=torch.bool)])
def test_wrong_cells_are_refused(cells):
    with pytest.raises(ValueError, match="Visible cells must be"):
        Visibility(cells, 2)
