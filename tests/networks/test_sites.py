# SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of packed maps on grids small enough to count by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from custom.networks import Visibility
from custom.networks.packed.rows import Rows
from custom.networks.packed.sites import Sites, Stencil, Window

THREE_WIDE = Window((3,), (1,), (1,), (1,))


def line(*visible: int) -> Sites:
    """One sample with one axis."""
    return Sites(torch.tensor([visible], dtype=torch.bool))


def test_rows_are_in_row_major_order():
    sites = Sites(torch.tensor([[[True, False], [True, True]], [[False, True], [False, False]]]))
    assert sites.index.tolist() == [0, 2, 3, 5]
    assert sites.sample.tolist() == [0, 0, 0, 1]
    assert sites.counts.tolist() == [3, 1]
    assert sites.sizes == [3, 1]
    assert [axis.tolist() for axis in sites.coordinates()] == [[0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert sites.row_numbers.flatten().tolist() == [0, 4, 1, 2, 4, 3, 4, 4]


def test_table_of_a_line():
    sites = line(1, 1, 0, 1)
    assert Stencil(sites, sites, THREE_WIDE).table.tolist() == [[3, 0, 1], [0, 1, 3], [3, 2, 3]]


def test_neighbours_of_another_sample_are_no_neighbours():
    sites = Sites(torch.ones(2, 2, dtype=torch.bool))
    assert Stencil(sites, sites, THREE_WIDE).table.tolist() == [[4, 0, 1], [0, 1, 4], [4, 2, 3], [2, 3, 4]]


def test_groups_lead_back_from_inputs_to_outputs():
    """Stride 2, kernel 3, padding 1: even inputs are seen by the centre, odd ones by both ends."""
    source, target = line(1, 1, 1, 0), line(1, 1)
    centre, ends = Stencil(source, target, Window((3,), (2,), (1,), (1,))).groups[::-1]
    assert centre.rows.tolist() == [0, 2]
    assert centre.taps == [1]
    assert centre.table.tolist() == [[0], [1]]
    assert ends.rows.tolist() == [1]
    assert ends.taps == [0, 2]
    assert ends.table.tolist() == [[1, 0]]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("window", [(3, 1, 1, 1), (3, 2, 1, 1), (2, 2, 0, 1), (1, 3, 0, 1), (3, 1, 2, 2), (5, 3, 2, 1)])
def test_both_directions_hold_the_same_pairs(spatial_dims, window, generator):
    window = Window(*[(value,) * spatial_dims for value in window])
    source = Sites(torch.rand((2, *(9, 7, 8)[:spatial_dims]), generator=generator) > 0.4)
    target = Sites(torch.rand((2, *window.target_size(source.spatial)), generator=generator) > 0.4)
    stencil = Stencil(source, target, window)
    forward = {
        (int(row), tap, output) for output, taps in enumerate(stencil.table) for tap, row in enumerate(taps)
        if row < len(source)
    }  # fmt: skip
    backward = {
        (int(group.rows[at]) if group.rows is not None else at, tap, int(output))
        for group in stencil.groups
        for at, outputs in enumerate(group.table)
        for tap, output in zip(group.tap_numbers, outputs, strict=True)
        if output < len(target)
    }
    assert forward == backward


def test_pairs_are_made_where_little_is_visible_only():
    everything, little = Sites(torch.ones(1, 16, 16, dtype=torch.bool)), Sites(torch.eye(16, dtype=torch.bool)[None])
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    assert Stencil(everything, everything, window).pairs is None
    pairs = Stencil(little, little, window).pairs
    assert [part.stop - part.start for part in pairs.parts] == [15, 0, 0, 0, 16, 0, 0, 0, 15]
    assert pairs.inputs[pairs.parts[4]].equal(pairs.outputs[pairs.parts[4]])


def test_dense_and_rows_are_each_others_inverse(generator):
    visibility = Visibility(torch.rand(2, 3, 4, generator=generator) > 0.5, 2)
    values = visibility.hide(torch.randn(2, 5, 6, 8, generator=generator))
    rows = Rows.of(values, visibility.sites((6, 8)))
    assert rows.shape == values.shape
    assert torch.equal(rows.dense(), values)


def test_tables_are_made_once_for_a_mask_and_freed_with_it():
    visibility = Visibility(torch.ones(1, 4, 4, dtype=torch.bool), 2)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    stencil = visibility.stencil((8, 8), (8, 8), window)
    assert visibility.stencil((8, 8), (8, 8), window) is stencil
    table, sites = weakref.ref(stencil.table), weakref.ref(visibility.sites((8, 8)))
    gc.disable()  # reference counts alone must do: a table that waits for the collector waits with all its memory
    try:
        del visibility, stencil
        assert table() is None
        assert sites() is None
    finally:
        gc.enable()


def test_window_reads_the_layers_of_torch():
    assert Window.of(torch.nn.Conv2d(1, 1, (3, 5), padding="same", dilation=2), 2) == (
        (3, 5), (1, 1), (2, 4), (2, 2)
    )  # fmt: skip
    assert Window.of(torch.nn.MaxPool3d(2), 3) == ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1))
    assert Window.of(torch.nn.AvgPool2d(3, 2, 1), 2) == ((3, 3), (2, 2), (1, 1), (1, 1))
