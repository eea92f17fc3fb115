# SPDX-License-Identifier: Apache-2.0
"""FROC: hand-made cases and MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
from monai.metrics import compute_froc_curve_data, compute_froc_score
from monai.metrics.froc import compute_fp_tp_probs_nd

from custom.metrics.froc import RATES, find_hits, froc_report


def objects(boxes, scores=None, labels=None, dims=2):
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 2 * dims)
    found = {"boxes": boxes, "labels": np.zeros(len(boxes), int) if labels is None else np.asarray(labels)}
    return found if scores is None else {**found, "scores": np.asarray(scores, dtype=np.float64)}


LEFT, RIGHT, FAR = [0, 0, 4, 4], [10, 0, 14, 4], [30, 30, 32, 32]


def test_hand_made_curve():
    truths = [objects([LEFT, RIGHT]), objects([])]
    predictions = [objects([LEFT, FAR, RIGHT], [0.9, 0.8, 0.6]), objects([FAR, LEFT], [0.7, 0.1])]
    hits = find_hits(truths, predictions)
    false, found = hits.curve()
    assert false.tolist() == [0, 0, 0.5, 1, 1, 1.5]
    assert found.tolist() == [0, 0.5, 0.5, 0.5, 1, 1]
    assert hits.sensitivities() == [0.5, 0.5, 0.5, 1, 1, 1, 1]
    report = froc_report(hits, resamples=20)
    assert report["mean_sensitivity"] == pytest.approx(5.5 / 7)
    assert report["false_positives_per_scan"] == list(RATES)
    low, high = report["intervals"]["mean_sensitivity"]
    assert low <= 5.5 / 7 <= high


def test_duplicates_are_neither_hits_nor_false():
    hits = find_hits([objects([LEFT])], [objects([LEFT] * 4, [0.2, 0.9, 0.3, 0.1])])
    assert hits.object_score.tolist() == [0.9]
    assert len(hits.false_score) == 0


def test_equal_scores_come_together():
    hits = find_hits([objects([LEFT])], [objects([FAR, LEFT], [0.5, 0.5])])
    false, found = hits.curve()
    assert (false.tolist(), found.tolist()) == ([0, 1], [0, 1])
    assert hits.sensitivities([0.5]) == [0.5], "linear between the points"


def test_nothing_there_and_nothing_found():
    assert find_hits([objects([])], [objects([LEFT], [1])]).sensitivities() is None
    assert froc_report(find_hits([objects([])], [objects([], [])]), resamples=3)["mean_sensitivity"] is None
    assert find_hits([objects([LEFT])], [objects([], [])]).sensitivities() == [0] * 7
    assert find_hits([], []).sensitivities() is None


def test_hits_are_of_the_own_class():
    hits = find_hits([objects([LEFT], labels=[1])], [objects([LEFT], [0.5])])
    assert hits.object_score.tolist() == [-np.inf]
    assert hits.false_score.tolist() == [0.5]


def test_rules():
    shifted = objects([[2, 0, 6, 4]], [1.0])  # IoU 1/3, centre on the lower edge of nothing: at 4, the box's end
    truth = objects([LEFT])

    def hit(rule, prediction=shifted, **more):
        return bool(np.isfinite(find_hits([{**truth, **more}], [prediction], rule, iou=0.3).object_score[0]))

    assert hit("iou")
    assert not hit("centre"), "the upper edge belongs to the next voxel"
    assert hit("centre", objects([[-1, -1, 1, 1]], [1.0])), "the lower edge belongs to the box"
    ring = np.zeros((1, 8, 8), dtype=bool)
    ring[0, :4, :4] = True
    ring[0, 1:3, 1:3] = False
    assert not hit("mask", objects([[1, 1, 3, 3]], [1.0]), masks=ring), "within the ring's hole"
    assert hit("mask", objects([[0, 0, 1, 1]], [1.0]), masks=ring)
    assert not hit("mask", objects([[-5, -5, -1, -1]], [1.0]), masks=ring), "outside of the scan"
    assert not hit("mask", objects([[7, 7, 9.5, 9.5]], [1.0]), masks=ring)
    with pytest.raises(ValueError, match="known: iou, centre, mask"):
        find_hits([], [], "near")


@pytest.mark.parametrize("dims", [2, 3])
def test_equals_monai(dims):
    """Where they overlap: one prediction a place; MONAI leaves the lowest score out of its curve."""
    generator = np.random.default_rng(dims)
    size = 24
    truths, predictions, false, found, number = [], [], [], [], 0
    for _ in range(6):
        low = np.array([[2] * dims, [12] * dims])
        masks = np.zeros((2, *[size] * dims), dtype=bool)
        for mask, corner in zip(masks, low, strict=True):
            mask[tuple(slice(c, c + 5) for c in corner)] = True
        voxels = generator.integers(0, 18, (12, dims))
        scores = generator.random(12)
        truths.append({**objects(np.concatenate([low, low + 5], axis=1), dims=dims), "masks": masks})
        predictions.append(objects(np.concatenate([voxels, voxels + 1], axis=1), scores, dims=dims))
        numbered = masks[0] + 2 * masks[1].astype(int)
        wrong, right, count = compute_fp_tp_probs_nd(scores.astype(np.float32), voxels, numbered)
        false.extend(wrong)
        found.extend(right[right > 0])
        number += count
    lowest = 1e-3
    curve = compute_froc_curve_data(np.array([*false, lowest]), np.array(found), number, len(truths))
    rates = (0.25, 0.5, 1, 2, 4)
    for rule in ("mask", "centre"):
        hits = find_hits(truths, predictions, rule)
        assert np.mean(hits.sensitivities(rates)) == pytest.approx(compute_froc_score(*curve, rates), abs=1e-6)


def test_weighting_is_repeating():
    generator = np.random.default_rng(0)
    truths = [objects([LEFT, RIGHT][: i % 3]) for i in range(6)]
    predictions = [objects([LEFT, RIGHT, FAR], generator.random(3)) for _ in range(6)]
    weights = np.array([0, 1, 2, 3, 1, 0])
    repeated = np.repeat(np.arange(6), weights)
    again = find_hits([truths[i] for i in repeated], [predictions[i] for i in repeated])
    assert find_hits(truths, predictions).sensitivities(weights=weights) == pytest.approx(again.sensitivities())
