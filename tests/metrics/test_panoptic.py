# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality: hand-made cases and MONAI's metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import PanopticQualityMetric

from custom.metrics.panoptic import match_instances, panoptic_figures, panoptic_report

EMPTY = np.zeros((8, 8), dtype=np.int64)


def line(*parts):
    """A map of one row: (id, length) after each other."""
    return np.concatenate([np.full(length, label) for label, length in parts])[None]


def test_hand_made_case():
    truth = line((1, 4), (0, 2), (2, 4), (3, 2))
    prediction = line((0, 1), (7, 3), (0, 2), (5, 4), (0, 1), (9, 1))
    pairs = match_instances(truth, prediction)
    assert pairs.truth.tolist() == [1, 2]
    assert pairs.prediction.tolist() == [7, 5]
    assert pairs.iou.tolist() == [0.75, 1]
    assert pairs.counts.tolist() == [2, 1, 1, 1.75], "one half of an instance is not more than 0.5"
    assert panoptic_figures(pairs.counts) == {"pq": 1.75 / 3, "rq": 2 / 3, "sq": 0.875}


@pytest.mark.parametrize("shape", [(40, 30), (14, 12, 10)])
def test_equals_monai(shape):
    generator = np.random.default_rng(0)
    truth = np.zeros((2, *shape), dtype=np.int64)
    for index in range(5):  # slabs of both classes, one voxel apart
        truth[0, 2 * index : 2 * index + 1] = index + 1
        truth[1, 2 * index : 2 * index + 1] = index % 2 + 1
    prediction = truth.copy()
    prediction[0] *= 3  # ids of its own
    prediction[:, generator.random(shape) < 0.2] = 0
    prediction[:, 0, 3:] = 0  # too little is left of the first
    prediction[:, -2:] = np.array([40, 1]).reshape(2, *[1] * len(shape))  # and one is false
    metric = PanopticQualityMetric(num_classes=2, metric_name=["pq", "rq", "sq"], smooth_numerator=0)
    metric(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None])
    theirs = metric.aggregate("none")
    for label in (1, 2):
        maps = (np.where(m[1] == label, m[0], 0) for m in (truth, prediction))
        ours = panoptic_figures(match_instances(*maps).counts)
        assert [ours[name] for name in ("pq", "rq", "sq")] == pytest.approx([float(t[0, label - 1]) for t in theirs])
        assert 0.2 < ours["pq"] < 1


def test_empty_maps():
    one = EMPTY.copy()
    one[2:4, 2:4] = 1
    assert panoptic_figures(match_instances(EMPTY, EMPTY).counts) == {"pq": None, "rq": None, "sq": None}
    assert panoptic_figures(match_instances(EMPTY, one).counts) == {"pq": 0, "rq": 0, "sq": None}
    assert panoptic_figures(match_instances(one, EMPTY).counts) == {"pq": 0, "rq": 0, "sq": None}
    assert panoptic_figures(match_instances(one, one).counts) == {"pq": 1, "rq": 1, "sq": 1}
    full = np.ones((8, 8), dtype=np.int64)
    assert panoptic_figures(match_instances(full, full).counts)["pq"] == 1, "no background"


def test_report_sums_scans_and_averages_classes():
    one = EMPTY.copy()
    one[2:4, 2:4] = 1
    found, false, absent = match_instances(one, one), match_instances(EMPTY, one), match_instances(EMPTY, EMPTY)
    report = panoptic_report([[found, absent], [false, absent], [found, found]], ["a", "b"], resamples=50)
    assert report["per_class"]["a"]["pq"] == pytest.approx(2 / 2.5)
    assert report["per_class"]["b"]["pq"] == 1
    assert report["pq"] == pytest.approx(0.9)
    assert report["per_class"]["a"]["false_positives"] == 1
    low, high = report["intervals"]["pq"]
    assert low < 0.9 < high
    assert panoptic_report([[absent]], ["a"], resamples=5)["intervals"]["pq"] is None
    assert panoptic_report([], ["a"])["pq"] is None


@pytest.mark.parametrize(
    ("truth", "prediction", "threshold", "words"),
    [
        (EMPTY, EMPTY[:4], 0.5, "differ in shape"),
        (EMPTY, EMPTY, 0.4, "unique"),
        (EMPTY, EMPTY * 0.5, 0.5, "integers"),
        (EMPTY, EMPTY - 1, 0.5, "integers from 0"),
    ],
)
def test_errors_say_what_is_wrong(truth, prediction, threshold, words):
    with pytest.raises(ValueError, match=words):
        match_instances(truth, prediction, threshold)
