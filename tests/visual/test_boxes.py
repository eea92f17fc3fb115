# SPDX-License-Identifier: Apache-2.0
"""Boxes on a scan."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from custom.visual.boxes import FOUND, TRUTH, draw_boxes


def test_boxes_lie_on_voxel_edges() -> None:
    axes = Figure().subplots()
    draw_boxes(axes, np.arange(12.0).reshape(4, 3), [[1, 0, 3, 2]], [[0, 1, 4, 3], [2, 2, 3, 3]], ["a 0.9"])
    assert axes.images[0].get_extent() == [0, 4, 3, 0]
    assert axes.images[0].get_array().shape == (3, 4)  # rows are the second axis
    assert [patch.get_edgecolor()[:3] for patch in axes.patches] == [TRUTH, FOUND, FOUND]
    assert [text.get_text() for text in axes.texts] == ["- - truth", "a 0.9"]


def test_the_slice_through_the_object() -> None:
    volume = np.zeros((5, 6, 7))
    volume[..., 4] = np.arange(30).reshape(5, 6)
    axes = Figure().subplots()
    found = [[0, 0, 0, 2, 2, 2], [1, 1, 4, 2, 2, 5]]
    draw_boxes(axes, volume, [[1, 1, 3, 3, 3, 6]], found, ["far", "near"], pixel_sizes=[1, 2, 3])
    assert axes.images[0].get_array().max() > 0
    assert len(axes.patches) == 2
    assert [text.get_text() for text in axes.texts] == ["R", "L", "- - truth", "near"]
    assert axes.images[0].get_array()[0, 0] == 1  # up is the patient's front, left the right
    assert [patch.get_bbox().bounds for patch in axes.patches] == [(2, 3, 2, 2), (3, 4, 1, 1)]


def test_unknown_truth_and_nothing_found() -> None:
    for dims in (2, 3):
        axes = Figure().subplots()
        draw_boxes(axes, np.zeros((4,) * dims), None, np.zeros((0, 2 * dims)))
        assert not axes.patches
        assert [text.get_text() for text in axes.texts] == (["R", "L"] if dims == 3 else [])
