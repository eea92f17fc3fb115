# SPDX-License-Identifier: Apache-2.0
"""Classification figures against hand values and scikit-learn; the bootstrap's behaviour."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from custom.metrics import (
    auroc_per_class,
    bootstrap_intervals,
    classification_figures,
    classification_report,
    confusion_matrix,
    key_score,
)

BINARY = np.array([[0.9, 0.1], [0.6, 0.4], [0.35, 0.65], [0.2, 0.8]])
BINARY_LABELS = np.array([0, 1, 0, 1])


def case(count: int = 60, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(classes, size=count - classes)])
    logits = generator.normal(size=(count, classes)).round(1) + np.eye(classes)[labels]
    values = np.exp(logits)
    return values / values.sum(axis=1, keepdims=True), labels


def test_hand_values_of_two_classes() -> None:
    figures = classification_figures(BINARY, BINARY_LABELS)
    assert figures == {"accuracy": 0.5, "balanced_accuracy": 0.5, "macro_auroc": 0.75}
    assert confusion_matrix(BINARY, BINARY_LABELS).tolist() == [[1, 1], [1, 1]]


def test_hand_values_of_unbalanced_classes() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1]] * 6 + [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]] + [[0.1, 0.1, 0.8]] * 2)
    labels = np.array([0] * 6 + [1, 1, 2, 2])
    figures = classification_figures(probabilities, labels)
    assert figures["accuracy"] == pytest.approx(0.9)
    assert figures["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    # class 0: of 24 pairs 6 tie; class 1: of 16 pairs 8 tie; class 2: all pairs in order
    assert auroc_per_class(probabilities, labels) == pytest.approx([1 - 3 / 24, 1 - 4 / 16, 1.0])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn(classes: int, seed: int) -> None:
    probabilities, labels = case(classes=classes, seed=seed)
    figures, predicted = classification_figures(probabilities, labels), probabilities.argmax(axis=1)
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert figures["macro_auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert confusion_matrix(probabilities, labels).tolist() == sklearn_confusion(labels, predicted).tolist()


def test_a_class_that_does_not_occur_is_left_out() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]])
    figures = classification_figures(probabilities, [0, 1])
    assert figures == {"accuracy": 1.0, "balanced_accuracy": 1.0, "macro_auroc": 1.0}
    assert math.isnan(classification_figures(probabilities, [1, 1])["macro_auroc"])


def test_intervals_are_reproducible_and_hold_the_figure() -> None:
    probabilities, labels = case(200)
    intervals = bootstrap_intervals(probabilities, labels, resamples=300, seed=3)
    assert intervals == bootstrap_intervals(probabilities, labels, resamples=300, seed=3)
    assert intervals != bootstrap_intervals(probabilities, labels, resamples=300, seed=4)
    for name, value in classification_figures(probabilities, labels).items():
        assert intervals[name][0] < value < intervals[name][1]


def test_accuracy_interval_has_the_binomial_width() -> None:
    right = np.array([True] * 300 + [False] * 100)
    labels = np.arange(400) % 2
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
    low, high = bootstrap_intervals(probabilities, labels, resamples=2000)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 400), rel=0.08)


def test_drawing_whole_groups_widens_the_interval() -> None:
    probabilities, labels = (np.repeat(part, 20, axis=0) for part in case(30, 2))
    by_scan = bootstrap_intervals(probabilities, labels, resamples=300)["accuracy"]
    by_group = bootstrap_intervals(probabilities, labels, groups=np.repeat(range(30), 20), resamples=300)["accuracy"]
    assert by_group[1] - by_group[0] > 3 * (by_scan[1] - by_scan[0])


def test_draws_that_lack_a_class_do_not_spoil_the_interval() -> None:
    intervals = bootstrap_intervals(BINARY, BINARY_LABELS, resamples=200)
    assert not np.isnan(list(intervals.values())).any()


def test_report_is_json_without_nan() -> None:
    report = classification_report([[0.9, 0.1], [0.8, 0.2]], [0, 0], ["a", "b"], resamples=5)
    assert report["macro_auroc"] is None
    assert report["auroc_per_class"] == {"a": None, "b": None}
    assert report["recall_per_class"] == {"a": 1.0, "b": None}
    assert report["bootstrap"]["unit"] == "scan"
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_key_score_on_an_engine() -> None:
    logits, labels = torch.from_numpy(np.log(BINARY)), torch.from_numpy(BINARY_LABELS)
    engine = Engine(lambda _, rows: {"pred": logits[rows], "label": labels[rows]})
    key_score("macro_auroc").attach(engine, "score")
    assert engine.run([slice(0, 2), slice(2, 4)]).metrics["score"] == 0.75
    with pytest.raises(ValueError, match="known: accuracy"):
        key_score("f1")


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), [], "N > 0"),
        (BINARY, [0, 1], "N > 0"),
        (BINARY, [0, 1, 2, 0], "Labels must lie"),
        (BINARY * np.nan, BINARY_LABELS, "diverged"),
    ],
)
def test_bad_input(probabilities: np.ndarray, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_figures(probabilities, labels)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"resamples": 0}, {"groups": ["a"]}])
def test_bad_bootstrap(options: dict) -> None:
    with pytest.raises(ValueError, match=r"level|one draw|groups"):
        bootstrap_intervals(BINARY, BINARY_LABELS, **options)
