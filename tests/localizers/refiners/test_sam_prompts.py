# SPDX-License-Identifier: Apache-2.0
"""Components of a map become boxes and points."""

from __future__ import annotations

import numpy as np
import pytest

from custom.localizers.refiners.box_prompts import (
    NEGATIVE,
    NO_POINT,
    POSITIVE,
    box_around,
    components,
    pad_points,
    peak,
    points_beside,
)


@pytest.fixture
def coarse():
    """Three components, of 60, 12 and 1 pixels, on `[H, W]` = 30 × 40."""
    values = np.zeros((30, 40), dtype=np.float32)
    values[2:12, 4:10] = 0.8
    values[20:24, 30:33] = 0.9
    values[28, 1] = 0.6
    return values


def test_components_come_largest_first(coarse):
    sizes = [int(part.sum()) for part in components(coarse, 0.5, min_size=0, max_components=9)]
    assert sizes == [60, 12, 1]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"max_components": 1}, [60]),
        ({"min_size": 0.1}, [60, 12]),
        ({"min_size": 1.0}, [60]),
        ({"threshold": 0.85}, [12]),
        ({"threshold": 0.95}, []),
    ],
)
def test_which_components_are_kept(coarse, options, sizes):
    found = components(coarse, **{"threshold": 0.5, "min_size": 0.0, "max_components": 9, **options})
    assert [int(part.sum()) for part in found] == sizes


def test_neighbours_across_a_corner_are_one_component():
    assert len(components(np.eye(5), 0.5, min_size=0, max_components=9)) == 1


def test_an_empty_map_has_no_components_whatever_the_threshold():
    assert components(np.zeros((5, 5)), 0.0, min_size=0, max_components=9) == []


def test_a_box_encloses_its_component(coarse):
    part = components(coarse, 0.5, min_size=0, max_components=1)[0]
    assert box_around(part, margin=0) == (4, 2, 10, 12)
    assert box_around(part, margin=0.5) == (1, 0, 13, 17)  # 2 - 5 is outside the picture


def test_the_peak_is_where_the_map_is_highest(coarse):
    part = components(coarse, 0.5, min_size=0, max_components=1)[0]
    coarse[9, 5] = 0.85
    assert peak(part, coarse) == (5, 9)


def test_the_peak_of_a_plateau_lies_deep_inside(coarse):
    part = components(coarse, 0.5, min_size=0, max_components=1)[0]
    x, y = peak(part, coarse)
    assert 6 <= x <= 7
    assert 4 <= y <= 9
    assert peak(np.ones((9, 9), dtype=bool), np.ones((9, 9))) == (4, 4)


def test_points_beside_lie_outside_the_component_and_inside_the_picture(coarse):
    part = components(coarse, 0.5, min_size=0, max_components=1)[0]
    assert points_beside(part, coarse, 0.5) == [(0, 6.5), (13, 6.5), (6.5, 17)]  # above there is no room
    coarse[6, 13] = 0.7  # region: another component
    assert points_beside(part, coarse, 0.5) == [(0, 6.5), (6.5, 17)]


def test_points_are_padded_to_one_length():
    places, labels = pad_points([(1, 2), (3, 4)], [[(5, 6)], []])
    assert places.tolist() == [[[1, 2], [5, 6]], [[3, 4], [0, 0]]]
    assert labels.tolist() == [[POSITIVE, NEGATIVE], [POSITIVE, NO_POINT]]
