# SPDX-License-Identifier: Apache-2.0
"""Classification figures against hand values and scikit-learn; the bootstrap's behaviour."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from custom.metrics import (
    auroc_per_class,
    bootstrap_intervals,
    classification_figures,
    classification_report,
    confusion_matrix,
    key_score,
)
from custom.metrics.classification import average_precision_per_class

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


SEVERAL = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
SEVERAL_PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.4, 0.6, 0.3], [0.5, 0.1, 0.2], [0.1, 0.9, 0.4]])


def test_hand_values_of_several_labels() -> None:
    # label 0: of 4 pairs one is in the wrong order; label 1: all in order; label 2 never occurs
    assert auroc_per_class(SEVERAL_PROBABILITIES, SEVERAL) == pytest.approx([0.75, 1.0, np.nan], nan_ok=True)
    # label 0: found at ranks 1 and 3 of 4
    expected = [(1 + 2 / 3) / 2, 1.0, np.nan]
    assert average_precision_per_class(SEVERAL_PROBABILITIES, SEVERAL) == pytest.approx(expected, nan_ok=True)
    figures = classification_figures(SEVERAL_PROBABILITIES, SEVERAL)
    assert figures == pytest.approx({"macro_auroc": 0.875, "macro_average_precision": (5 / 6 + 1) / 2})


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_equal_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.random((50, 4)) < 0.3
    probabilities = (generator.random((50, 4)) * 0.8 + 0.2 * labels).round(1)
    figures = classification_figures(probabilities, labels)
    assert figures["macro_auroc"] == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    expected = average_precision_score(labels, probabilities, average="macro")
    assert figures["macro_average_precision"] == pytest.approx(expected)


def test_average_precision_of_exclusive_classes() -> None:
    probabilities, labels = case()
    expected = average_precision_score(np.eye(3)[labels], probabilities, average=None)
    assert average_precision_per_class(probabilities, labels) == pytest.approx(expected)


def test_a_report_tells_the_most_probable_class_from_the_thresholds() -> None:
    thresholds = {"a": 0.3, "b": 0.5}
    report = classification_report(BINARY, BINARY_LABELS, ["a", "b"], resamples=20, thresholds=thresholds)
    assert report["argmax"]["sensitivity_per_class"] == report["recall_per_class"] == {"a": 0.5, "b": 0.5}
    assert report["argmax"]["macro_sensitivity"] == report["balanced_accuracy"] == 0.5
    block = report["thresholded"]
    assert block["thresholds"] == thresholds
    # a reaches 0.3 in the first three scans, of which the first and the third have it
    assert block["sensitivity_per_class"] == {"a": 1.0, "b": 0.5}
    assert block["specificity_per_class"] == {"a": 0.5, "b": 0.5}
    assert block["precision_per_class"]["a"] == pytest.approx(2 / 3)
    assert block["confusion_per_class"]["a"] == [[1, 1], [0, 2]]
    assert block["macro_sensitivity"] == 0.75
    low, high = block["intervals"]["macro_sensitivity"]
    assert 0 <= low <= 0.75 <= high <= 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_report_of_several_labels() -> None:
    classes = ["a", "b", "c"]
    thresholds = dict.fromkeys(classes, 0.45)
    report = classification_report(SEVERAL_PROBABILITIES, SEVERAL, classes, resamples=20, thresholds=thresholds)
    assert "accuracy" not in report
    assert "confusion_matrix" not in report
    assert report["scans_per_class"] == {"a": 2, "b": 2, "c": 0}
    assert report["auroc_per_class"] == {"a": 0.75, "b": 1.0, "c": None}
    assert set(report["intervals"]) == {"macro_auroc", "macro_average_precision"}
    block = report["thresholded"]
    assert block["sensitivity_per_class"] == {"a": 0.5, "b": 1.0, "c": None}
    assert block["specificity_per_class"] == {"a": 0.5, "b": 1.0, "c": 1.0}
    assert block["macro_f1"] == pytest.approx(0.75)
    with pytest.raises(ValueError, match=r"No threshold for the classes \['c'\]"):
        classification_report(SEVERAL_PROBABILITIES, SEVERAL, classes, thresholds={"a": 0.5, "b": 0.5})


def test_key_score_of_several_labels() -> None:
    logits = torch.from_numpy(np.log(SEVERAL_PROBABILITIES / (1 - SEVERAL_PROBABILITIES)))
    labels = torch.from_numpy(SEVERAL).float()
    engine = Engine(lambda _, rows: {"pred": logits[rows], "label": labels[rows]})
    key_score("macro_auroc", multi_label=True).attach(engine, "score")
    assert engine.run([slice(0, 2), slice(2, 4)]).metrics["score"] == pytest.approx(0.875)
    with pytest.raises(ValueError, match="several labels per scan; known: macro_auroc"):
        key_score("accuracy", multi_label=True)


def test_bad_input_of_several_labels() -> None:
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 2\)"):
        classification_figures(SEVERAL_PROBABILITIES, SEVERAL * 2)
    with pytest.raises(ValueError, match="one class per scan"):
        confusion_matrix(SEVERAL_PROBABILITIES, SEVERAL)


def test_of_one_patient_there_is_a_figure_and_no_interval() -> None:
    report = classification_report(BINARY, BINARY_LABELS, ["a", "b"], groups=["p"] * len(BINARY_LABELS))
    assert report["macro_auroc"] is not None
    assert set(report["intervals"]) >= {"accuracy", "macro_auroc"}
    assert all(limits == [None, None] for limits in report["intervals"].values())


def test_without_draws_there_are_no_intervals() -> None:
    thresholds = {"a": 0.5, "b": 0.5}
    report = classification_report(BINARY, BINARY_LABELS, ["a", "b"], resamples=0, thresholds=thresholds)
    full = classification_report(BINARY, BINARY_LABELS, ["a", "b"], resamples=5, thresholds=thresholds)
    assert set(full) - set(report) == {"intervals", "bootstrap"}
    assert set(full["thresholded"]) - set(report["thresholded"]) == {"intervals"}
    assert report["accuracy"] == full["accuracy"]
