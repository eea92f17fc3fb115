# SPDX-License-Identifier: Apache-2.0
"""Maps against the truth, on a row of ten voxels."""

from __future__ import annotations

import numpy as np
import pytest

from custom.metrics.localization import compare_with_truth, in_boxes


def test_closed_form():
    target = np.zeros(20, dtype=bool)
    target[4:8] = True
    probability = np.zeros(20)
    probability[6:12] = 0.6
    probability[7] = 0.9
    found = compare_with_truth(probability, target)
    assert found["hit"] == 1
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["precision"] == pytest.approx(2 / 6)
    assert found["dice"] == pytest.approx(2 * 2 / (4 + 6))
    assert found["coverage"] == pytest.approx(6 / 20)
    # 15 % of 20 voxels are three: voxel 7, then of the equal ones those nearest to the middle, 9 and 10.
    assert found["recall_at_15"] == pytest.approx(1 / 4)


def test_nothing_found():
    target = np.ones((3, 3), dtype=bool)
    found = compare_with_truth(np.zeros((3, 3)), target)
    assert all(value == 0 for value in found.values())


def test_a_flat_map_points_at_the_middle():
    target = np.zeros((5, 5), dtype=bool)
    target[2, 2] = True
    assert compare_with_truth(np.full((5, 5), 0.7), target)["hit"] == 1
    assert compare_with_truth(np.full((5, 5), 0.7), ~target)["hit"] == 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="not empty"):
        compare_with_truth(np.zeros((2, 2)), np.zeros((2, 2), dtype=bool))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        compare_with_truth(np.zeros((2, 2)), np.ones((3, 2), dtype=bool))


def test_boxes():
    inside = in_boxes([[1, 0, 2, 1], [3.2, 2.5, 0.5, 0.4]], (5, 4))
    assert inside.sum() == 3
    assert inside[1, 0]
    assert inside[2, 0]
    assert inside[3, 2]


def test_boxes_touch_no_pixel_by_rounding():
    exact = in_boxes([[1, 1, 2, 2]], (5, 5))
    assert (in_boxes([[1 - 1e-12, 1 + 1e-12, 2 + 2e-12, 2]], (5, 5)) == exact).all()


def test_boxes_over_the_edge_are_cut():
    assert in_boxes([[-1.5, -2, 3, 3]], (5, 5)).sum() == 2
    assert not in_boxes([[-3, -3, 2, 2]], (5, 5)).any()
