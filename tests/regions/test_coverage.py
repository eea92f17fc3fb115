# SPDX-License-Identifier: Apache-2.0
"""Coverage of cells, against a loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import MetaTensor

from custom.regions import cell_coverage


@pytest.mark.parametrize(
    ("spatial", "cells"), [((12, 8), (4, 2)), ((6, 6), (6, 3)), ((8, 6, 4), (2, 3, 4)), ((4, 4, 4), (1, 1, 1))]
)
def test_equals_a_loop_over_cells(spatial, cells, generator):
    region = torch.rand(3, *spatial, generator=generator)
    coverage = cell_coverage(MetaTensor(region), cells)
    assert type(coverage) is torch.Tensor
    grid = tuple(size // cell for size, cell in zip(spatial, cells, strict=True))
    assert coverage.shape == grid
    for at in itertools.product(*map(range, grid)):
        inside = tuple(slice(i * cell, (i + 1) * cell) for i, cell in zip(at, cells, strict=True))
        expected = region[(slice(None), *inside)].max(dim=0).values.mean()
        torch.testing.assert_close(coverage[at], expected)


def test_a_lesion_of_one_voxel_is_counted_wherever_it_lies():
    for at in itertools.product(range(8), range(8)):
        region = torch.zeros(1, 32, 32)
        region[0, 16 + at[0], 8 + at[1]] = 1
        coverage = cell_coverage(region, [8, 8])
        assert coverage[2, 1] == 1 / 64
        assert coverage.sum() == 1 / 64


def test_a_binary_map_may_be_of_integers():
    assert cell_coverage(torch.ones(1, 4, 4, dtype=torch.uint8), [2, 2]).tolist() == [[1, 1], [1, 1]]
    assert cell_coverage(torch.ones(1, 4, 4, dtype=torch.bool), [4, 4]).tolist() == [[1]]


@pytest.mark.parametrize(
    ("shape", "cells", "message"),
    [
        ((1, 10, 8), [4, 4], r"\(4, 4\).*\(10, 8\)"),
        ((1, 4, 4), [8, 8], r"\(8, 8\).*\(4, 4\)"),
        ((1, 4, 4), [0, 4], r"\(0, 4\)"),
        ((1, 4, 4, 4), [4, 4], "3 numbers"),
        ((0, 4, 4), [4, 4], "prompts"),
    ],
)
def test_says_what_does_not_fit(shape, cells, message):
    with pytest.raises(ValueError, match=message):
        cell_coverage(torch.zeros(shape), cells)
