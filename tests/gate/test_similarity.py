# SPDX-License-Identifier: Apache-2.0
"""Similarity of maps against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from custom.gate import region_similarity


def row(*values):
    return np.array(values, dtype=np.float32)


def test_same_regions_are_alike_whatever_the_probabilities():
    assert region_similarity(row(0.6, 0.9, 0.1, 0), row(0.99, 0.5, 0.4, 0.2)) == 1


def test_distinct_regions_are_not():
    assert region_similarity(row(1, 1, 0, 0), row(0, 0, 1, 1)) == 0


def test_intersection_over_union():
    assert region_similarity(row(1, 1, 1, 0), row(0, 1, 1, 1)) == pytest.approx(0.5)


@pytest.mark.parametrize(("first", "second", "expected"), [((0, 0.4), (0, 0), 1), ((0, 0.4), (0, 0.6), 0)])
def test_empty_regions(first, second, expected):
    assert region_similarity(row(*first), row(*second)) == expected


def test_a_region_that_only_grows_has_not_moved():
    """The larger one is cut to the smaller one's size: its highest voxels are the same."""
    small, large = row(0.9, 0.1, 0.1, 0.1), row(0.9, 0.7, 0.6, 0.6)
    assert region_similarity(small, large) == 1


def test_equal_values_share_what_is_left():
    """Cut to one of four equal voxels: a quarter of each; union 1 + 3/4, intersection 1/4; 1/7 < plain 1/4."""
    assert region_similarity(row(1, 0, 0, 0), row(1, 1, 1, 1)) == pytest.approx(0.25)


def test_a_region_that_grew_around_another_place():
    small, large = row(0.9, 0, 0, 0), row(0.6, 0.9, 0.8, 0)
    assert region_similarity(small, large) == pytest.approx(1 / 3)


def test_probabilities_by_minima_and_maxima():
    assert region_similarity(row(0.2, 0.6), row(0.4, 0.3), threshold=None) == pytest.approx(0.5 / 1.0)


def test_it_is_symmetric():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 9, 11))
    assert region_similarity(first, second) == pytest.approx(region_similarity(second, first))
