# SPDX-License-Identifier: Apache-2.0
"""Figures of classifiers, with one label per scan or several, and their bootstrap intervals.

Labels come in two forms: ``[N]`` integers (each scan has one class) or ``[N, K]`` zeros and ones (each scan has any
number of K labels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from custom.metrics.resampling import drawn_weights, interval
from custom.metrics.thresholds import decisions_per_class, macro_means, threshold_figures

FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc")
MULTI_LABEL_FIGURES = ("macro_auroc", "macro_average_precision")

Figures = Callable[[NDArray[np.float64], NDArray[np.int64]], Mapping[str, float]]


def confusion_matrix(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Count scans by true class (rows) and predicted class (columns), ``[K, K]``.

    Args:
        probabilities: ``[N, K]``; the predicted class is the one with the largest value, the first among equals.
        labels: ``[N]`` integers in [0, K).

    Raises:
        ValueError: if the shapes or labels do not fit, or there are no scans.
    """
    values, truth = _checked(probabilities, labels)
    if truth.ndim != 1:
        raise ValueError("A confusion matrix needs one class per scan: labels [N].")
    classes = values.shape[1]
    return np.bincount(truth * classes + values.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def auroc_per_class(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Area under the ROC curve of each class against the rest, ``[K]``.

    Computed from ranks (the Mann-Whitney statistic; ties count one half). NaN where a class has no scan or all.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` or ``[N, K]``.
    """
    values, truth = _checked(probabilities, labels)
    positive = _indicators(truth, values.shape[1])
    if truth.ndim == 1 and values.shape[1] == 2:
        values = values[:, 1:] * [-1, 1]  # rounding must not give the two columns different ties
    count = positive.sum(axis=0)
    pairs = count * (len(truth) - count)
    above = (rankdata(values, axis=0) * positive).sum(axis=0) - count * (count + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def average_precision_per_class(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each class against the rest, ``[K]``.

    Mean of the precisions at the scans that have the class, without interpolation; scans of equal probability count
    together. It equals scikit-learn's ``average_precision_score``, whose checks would take most of a bootstrap's time.
    NaN where a class has no scan.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` or ``[N, K]``.
    """
    values, truth = _checked(probabilities, labels)
    positive = _indicators(truth, values.shape[1])
    columns = zip(values.T, positive.T, strict=True)
    return np.array([_average_precision(scores, has) for scores, has in columns], dtype=np.float64)


def classification_figures(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the figures named in ``FIGURES``, or for several labels per scan those in ``MULTI_LABEL_FIGURES``.

    - ``accuracy``: share of scans whose most probable class is the true one;
    - ``balanced_accuracy``: mean recall of the classes that occur;
    - ``macro_auroc``: mean AUROC of the classes (each against the rest) that occur and do not always occur; with two
      exclusive classes this is the AUROC of either. NaN if there is none;
    - ``macro_average_precision``: mean average precision of the classes that occur. NaN if there is none.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers in [0, K), or ``[N, K]`` zeros and ones.
    """
    values, truth = _checked(probabilities, labels)
    macro_auroc = _mean(auroc_per_class(values, truth))
    if truth.ndim == 2:
        return {
            "macro_auroc": macro_auroc,
            "macro_average_precision": _mean(average_precision_per_class(values, truth)),
        }
    counts = confusion_matrix(values, truth)
    occurring = counts.sum(axis=1) > 0
    recall = counts.diagonal()[occurring] / counts.sum(axis=1)[occurring]
    return {
        "accuracy": float(counts.trace() / counts.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_auroc": macro_auroc,
    }


def bootstrap_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    figures: Figures = classification_figures,
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals (Efron, 1979) of the figures, on a fixed classifier.

    They say how far the figures depend on which scans were tested, not on the training's randomness.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers, or ``[N, K]`` zeros and ones.
        groups: patient of each scan; whole patients are then drawn. None: scans are drawn.
        resamples: number of draws; those in which a figure is undefined do not count for it.
        level: confidence level in (0, 1).
        seed: of the draws.
        figures: probabilities and labels of the drawn scans -> figure by name.

    Returns:
        Name -> [lower, upper]; NaN for a figure that no draw defines, and for scans of a single patient.
    """
    values, truth = _checked(probabilities, labels)
    scans = np.arange(len(truth))
    draws = (np.repeat(scans, times) for times in drawn_weights(len(truth), groups, resamples, seed))
    drawn = [figures(values[chosen], truth[chosen]) for chosen in draws]
    undefined = [float("nan"), float("nan")]
    names = figures(values, truth)
    return {name: interval([each[name] for each in drawn], level) or undefined for name in names}


def classification_report(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return everything to report about a set of scans, JSON-able (undefined numbers are None).

    With one class per scan, ``accuracy``, ``balanced_accuracy``, ``recall_per_class``, ``confusion_matrix`` and the
    block ``argmax`` are about the most probable class. The block ``thresholded`` is about each class against the rest:
    a scan has a class whose probability reaches the class's threshold. On the scans that the thresholds were chosen on,
    these figures are too good.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers, or ``[N, K]`` zeros and ones.
        classes: names of the K classes.
        groups: patient of each scan, see :func:`bootstrap_intervals`.
        resamples: draws of the bootstrap; 0: no intervals.
        level: confidence level of the intervals.
        seed: of the bootstrap.
        thresholds: class -> probability from which a scan counts as having it; None: no such block.
    """
    missing = [name for name in classes if thresholds is not None and name not in thresholds]
    if missing:
        raise ValueError(f"No threshold for the classes {missing}; given: {thresholds}.")
    values, truth = _checked(probabilities, labels)
    positive = _indicators(truth, len(classes))
    draws: dict[str, Any] = {"groups": groups, "resamples": resamples, "level": level, "seed": seed}
    precision = average_precision_per_class(values, truth)
    report: dict[str, Any] = {
        "num_scans": len(truth),
        **classification_figures(values, truth),
        "macro_average_precision": _mean(precision),
        "scans_per_class": _by_class(classes, positive.sum(axis=0)),
        "auroc_per_class": _by_class(classes, auroc_per_class(values, truth)),
        "average_precision_per_class": _by_class(classes, precision),
    }
    if resamples:
        report["intervals"] = bootstrap_intervals(values, truth, **draws)
        report["bootstrap"] = {"level": level, "resamples": resamples, "unit": "scan" if groups is None else "group"}
    if truth.ndim == 1:
        report.update(_argmax_block(values, truth, classes))
    if thresholds is not None:
        report["thresholded"] = _thresholded_block(values, positive, classes, thresholds, draws)
    return _without_nan(report)


def key_score(name: str, multi_label: bool = False) -> EpochMetric:
    """One of the figures as a metric of an Ignite engine whose output holds logits ``pred`` and ``label``.

    Args:
        name: one of ``FIGURES``, with several labels per scan of ``MULTI_LABEL_FIGURES``.
        multi_label: several labels per scan: probabilities are sigmoids, labels ``[B, K]``.

    Raises:
        ValueError: if the name is unknown.
    """
    check_figure(name, multi_label)

    def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
        return classification_figures(to_probabilities(logits, multi_label).numpy(), labels.numpy())[name]

    return EpochMetric(
        compute,
        output_transform=lambda output: (output["pred"].float().cpu(), output["label"].long().cpu()),
        check_compute_fn=False,
    )


def check_figure(name: str, multi_label: bool = False) -> None:
    """Raise ValueError, with the known ones, unless a figure can choose the best epoch."""
    known = MULTI_LABEL_FIGURES if multi_label else FIGURES
    if name not in known:
        kind = "several labels per scan" if multi_label else "one class per scan"
        raise ValueError(f"Unknown key metric {name!r} for {kind}; known: {', '.join(known)}.")


def to_probabilities(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Softmax over the classes, or with several labels per scan a sigmoid of each; ``[B, K]`` in float32."""
    return logits.float().sigmoid() if multi_label else logits.float().softmax(dim=1)


def _average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each group of equal scores
    hits = positive[order].cumsum()[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1]) if hits[-1] else float("nan")


def _argmax_block(values: NDArray[np.float64], truth: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    counts = confusion_matrix(values, truth)
    predicted = _indicators(values.argmax(axis=1), len(classes))
    per_class = decisions_per_class(predicted, _indicators(truth, len(classes)))
    return {
        "recall_per_class": _by_class(classes, per_class["sensitivity"]),
        "confusion_matrix": counts.tolist(),
        "argmax": _class_table(classes, per_class),
    }


def _thresholded_block(
    values: NDArray[np.float64],
    positive: NDArray[np.bool_],
    classes: Sequence[str],
    thresholds: Mapping[str, float],
    draws: Mapping[str, Any],
) -> dict[str, Any]:
    limits = np.array([thresholds[name] for name in classes])

    def macro(drawn: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
        return macro_means(threshold_figures(drawn, truth, limits))

    table = _class_table(classes, threshold_figures(values, positive, limits))
    pairs = [
        confusion_matrix(np.eye(2)[above.astype(int)], has.astype(int))
        for above, has in zip((values >= limits).T, positive.T, strict=True)
    ]
    counts = {name: pair.tolist() for name, pair in zip(classes, pairs, strict=True)}
    block = {"thresholds": dict(zip(classes, limits.tolist(), strict=True)), **table, "confusion_per_class": counts}
    if draws["resamples"]:
        block["intervals"] = bootstrap_intervals(values, positive.astype(np.int64), figures=macro, **draws)
    return block


def _class_table(classes: Sequence[str], per_class: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    table = {f"{name}_per_class": _by_class(classes, values) for name, values in per_class.items()}
    return {**macro_means(per_class), **table}


def _by_class(classes: Sequence[str], values: NDArray[Any]) -> dict[str, Any]:
    return dict(zip(classes, values.tolist(), strict=True))


def _indicators(truth: NDArray[np.int64], classes: int) -> NDArray[np.bool_]:
    return truth.astype(bool) if truth.ndim == 2 else truth[:, None] == np.arange(classes)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or truth.shape not in (values.shape[:1], values.shape) or not len(truth):
        raise ValueError(
            f"Need probabilities [N, K] and labels [N] or [N, K], N > 0, received {values.shape} and {truth.shape}."
        )
    if np.isnan(values).any():
        raise ValueError("Probabilities hold NaN: the network diverged. Lower the learning rate.")
    limit = values.shape[1] if truth.ndim == 1 else 2
    if truth.min() < 0 or truth.max() >= limit:
        raise ValueError(f"Labels must lie in [0, {limit}), got {truth.min()} to {truth.max()}.")
    return values, truth.astype(np.int64)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
