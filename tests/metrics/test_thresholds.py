# SPDX-License-Identifier: Apache-2.0
"""Thresholds and the figures of decisions, against hand values, a slow search and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from custom.metrics.thresholds import choose_thresholds, decisions_per_class, macro_means, threshold_figures


def case(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random((count, 3)) < [0.5, 0.2, 0.8]
    return (generator.random((count, 3)).round(1) * 0.7 + 0.3 * labels).round(2), labels


def quality(scores: np.ndarray, positive: np.ndarray, threshold: float, rule: str) -> float:
    found = scores >= threshold
    if rule == "f1":
        return 2 * (found & positive).sum() / (found.sum() + positive.sum())
    return found[positive].mean() + (~found)[~positive].mean() - 1


def test_hand_values() -> None:
    scores, labels = np.array([[0.1], [0.4], [0.6], [0.9]]), np.array([[0], [0], [1], [1]])
    assert choose_thresholds(scores, labels).tolist() == [pytest.approx(0.5)]
    # A false alarm at 0.9 costs less F1 than missing the scans below it.
    assert choose_thresholds([[0.2], [0.3], [0.8], [0.9]], [[0], [1], [1], [0]], "f1").item() == pytest.approx(0.25)


@pytest.mark.parametrize("rule", ["youden", "f1"])
@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better(rule: str, seed: int) -> None:
    scores, labels = case(seed)
    for column, threshold in enumerate(choose_thresholds(scores, labels, rule)):
        tried = [quality(scores[:, column], labels[:, column], each, rule) for each in np.linspace(0, 1, 501)]
        assert quality(scores[:, column], labels[:, column], threshold, rule) == pytest.approx(max(tried))


def test_youden_is_the_highest_point_of_the_roc_curve() -> None:
    scores, labels = case(7)
    false_alarms, hits, _ = roc_curve(labels[:, 0], scores[:, 0])
    chosen = choose_thresholds(scores, labels)[0]
    assert quality(scores[:, 0], labels[:, 0], chosen, "youden") == pytest.approx((hits - false_alarms).max())


def test_a_threshold_lies_between_probabilities_and_near_one_half_among_equals() -> None:
    assert choose_thresholds([[0.1], [0.45], [0.55], [0.95]], [[0], [0], [1], [1]]).item() == pytest.approx(0.5)
    # Equally good at 0.2 (both positives found, one false alarm) and at 0.75 (one found, none false).
    scores, labels = [[0.1], [0.3], [0.45], [0.8]], [[0], [1], [0], [1]]
    assert choose_thresholds(scores, labels).item() == pytest.approx(0.625)


def test_two_exclusive_classes_decide_alike() -> None:
    scores = np.random.default_rng(0).random(50)
    labels = (np.random.default_rng(1).random(50) * 0.6 + scores * 0.4) > 0.5
    both = choose_thresholds(np.stack([1 - scores, scores], 1), np.stack([~labels, labels], 1))
    assert both.sum() == pytest.approx(1)


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_choose(value: int) -> None:
    assert np.isnan(choose_thresholds([[0.2], [0.7]], [[value], [value]])).all()


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="known: youden, f1"):
        choose_thresholds([[0.5]], [[1]], "best")


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_scikit_learn(seed: int) -> None:
    scores, labels = case(seed)
    thresholds = np.array([0.4, 0.5, 0.6])
    figures, found = threshold_figures(scores, labels, thresholds), scores >= thresholds
    assert figures["sensitivity"] == pytest.approx(recall_score(labels, found, average=None))
    assert figures["specificity"] == pytest.approx(recall_score(~labels, ~found, average=None))
    assert figures["precision"] == pytest.approx(precision_score(labels, found, average=None))
    assert figures["f1"] == pytest.approx(f1_score(labels, found, average=None))
    assert macro_means(figures)["macro_f1"] == pytest.approx(f1_score(labels, found, average="macro"))


def test_what_is_undefined_is_left_out_of_the_mean() -> None:
    positive = np.array([[True, False, True], [False, False, True]])
    found = np.array([[True, False, False], [True, False, True]])
    figures = decisions_per_class(found, positive)
    assert figures["sensitivity"].tolist() == [1, pytest.approx(np.nan, nan_ok=True), 0.5]
    assert figures["specificity"].tolist() == [0, 1, pytest.approx(np.nan, nan_ok=True)]
    assert figures["precision"].tolist() == [0.5, pytest.approx(np.nan, nan_ok=True), 1]
    assert macro_means(figures)["macro_sensitivity"] == pytest.approx(0.75)
    assert np.isnan(macro_means({"f1": np.array([np.nan])})["macro_f1"])
