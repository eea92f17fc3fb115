# SPDX-License-Identifier: Apache-2.0
"""Boxes with scores become soft maps."""

from __future__ import annotations

import pytest
import torch

from custom.localizers.vision_language.detections import as_probability, check_shares, corners, paint

SIZE = (20, 30)


def boxes(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 4)


def test_a_box_fills_its_area_with_its_probability():
    painted = paint(boxes((5, 2, 9, 12)), torch.tensor([0.25]), SIZE, threshold=0.1)
    expected = torch.zeros(SIZE)
    expected[2:12, 5:9] = 0.25 * 0.9 / (0.25 * 0.9 + 0.75 * 0.1)
    torch.testing.assert_close(painted, expected)


def test_the_threshold_becomes_one_half():
    """Odds of 1/3 at a threshold of 0.25: a score of 0.5 has three times those odds, and so 0.75."""
    scores = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0])
    found = as_probability(scores, 0.25)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert found[2] >= 0.5


@pytest.mark.parametrize("threshold", [0, 1])
def test_at_the_ends_scores_stay(threshold):
    scores = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(as_probability(scores, threshold), scores)


def test_whatever_a_detector_keeps_is_region():
    for threshold in torch.linspace(0.01, 0.9, 90).tolist():
        assert as_probability(torch.tensor([threshold]), threshold) >= 0.5


def test_the_highest_score_holds_whatever_the_order():
    pair = boxes((0, 0, 10, 10), (5, 5, 15, 15))
    painted = paint(pair, torch.tensor([0.75, 0.5]), SIZE, threshold=0)
    assert torch.equal(painted, paint(pair.flip(0), torch.tensor([0.5, 0.75]), SIZE, threshold=0))
    assert painted[7, 7] == 0.75
    assert painted[12, 12] == 0.5
    assert painted[17, 17] == 0


def test_nothing_found_is_a_map_of_zeros():
    assert paint(boxes((0, 0, 10, 10)), torch.tensor([0.2]), SIZE, threshold=0.21).eq(0).all()
    assert paint(torch.zeros(0, 4), torch.zeros(0), SIZE, threshold=0).eq(0).all()


def test_boxes_end_at_the_picture():
    painted = paint(boxes((-5, -5, 3, 3), (28, 18, 99, 99), (40, 0, 50, 5)), torch.full((3,), 0.5), SIZE, threshold=0)
    assert painted[:3, :3].eq(0.5).all()
    assert painted[18:, 28:].eq(0.5).all()
    assert painted.gt(0).sum() == 9 + 4


def test_a_box_fills_the_pixels_whose_centre_it_holds():
    painted = paint(boxes((4.4, 7.6, 6.6, 8.6)), torch.tensor([0.5]), SIZE, threshold=0)
    assert painted.nonzero().tolist() == [[8, 4], [8, 5], [8, 6]]


def test_a_box_below_a_pixel_is_not_lost():
    assert paint(boxes((29.8, 19.8, 29.9, 29.9)), torch.tensor([0.5]), SIZE, threshold=0).argmax() == 599
    assert paint(boxes((4.2, 7.4, 4.6, 7.5)), torch.tensor([0.5]), SIZE, threshold=0).nonzero().tolist() == [[7, 4]]


def test_boxes_that_do_not_say_where_can_be_dropped():
    pair, scores = boxes((0, 0, 30, 20), (3, 3, 6, 6)), torch.tensor([0.9, 0.5])
    assert paint(pair, scores, SIZE, threshold=0).min() == pytest.approx(0.9)
    assert paint(pair, scores, SIZE, threshold=0, max_area=0.5).max() == 0.5


def test_corners_of_boxes_given_by_centre_and_size():
    assert corners(torch.tensor([[[5.0, 6.0, 4.0, 2.0]]])).tolist() == [[[3, 5, 7, 7]]]


def test_shares_are_checked_by_name():
    check_shares(threshold=0, other=1)
    with pytest.raises(ValueError, match="max_area must be in"):
        check_shares(threshold=0.5, max_area=1.01)
