# SPDX-License-Identifier: Apache-2.0
"""Accuracy, balanced accuracy, macro AUROC and confusion matrix, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc")


def confusion_matrix(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Count scans by true class (rows) and predicted class (columns), ``[K, K]``.

    Args:
        probabilities: ``[N, K]``; the predicted class is the one with the largest value, the first among equals.
        labels: ``[N]`` integers in [0, K).

    Raises:
        ValueError: if the shapes or labels do not fit, or there are no scans.
    """
    values, truth = _checked(probabilities, labels)
    classes = values.shape[1]
    return np.bincount(truth * classes + values.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def auroc_per_class(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Area under the ROC curve of each class against the rest, ``[K]``.

    Computed from ranks (the Mann-Whitney statistic; ties count one half). NaN where a class has no scan or all.
    """
    values, truth = _checked(probabilities, labels)
    if values.shape[1] == 2:
        values = values[:, 1:] * [-1, 1]  # rounding must not give the two columns different ties
    positive = truth[:, None] == np.arange(values.shape[1])
    count = positive.sum(axis=0)
    pairs = count * (len(truth) - count)
    above = (rankdata(values, axis=0) * positive).sum(axis=0) - count * (count + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def classification_figures(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the figures named in ``FIGURES``.

    - ``accuracy``: share of scans whose most probable class is the true one;
    - ``balanced_accuracy``: mean recall of the classes that occur;
    - ``macro_auroc``: mean one-vs-rest AUROC of the classes that occur; with two classes this is the AUROC of
      either. NaN if only one class occurs.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers in [0, K).
    """
    counts = confusion_matrix(probabilities, labels)
    occurring = counts.sum(axis=1) > 0
    recall = counts.diagonal()[occurring] / counts.sum(axis=1)[occurring]
    auroc = auroc_per_class(probabilities, labels)
    known = ~np.isnan(auroc)
    return {
        "accuracy": float(counts.trace() / counts.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_auroc": float(auroc[known].mean()) if known.any() else float("nan"),
    }


def bootstrap_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals (Efron, 1979) of the figures, on a fixed classifier.

    They say how far the figures depend on which scans were tested, not on the training's randomness.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers.
        groups: patient of each scan; whole patients are then drawn. None: scans are drawn.
        resamples: number of draws; those in which a figure is undefined do not count for it.
        level: confidence level in (0, 1).
        seed: of the draws.

    Returns:
        Name -> [lower, upper]; NaN for a figure that no draw defines.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie in (0, 1) and resamples be at least 1, received {level} and {resamples}.")
    values, truth = _checked(probabilities, labels)
    drawn = [
        list(classification_figures(values[chosen], truth[chosen]).values())
        for chosen in _draws(len(truth), groups, resamples, seed)
    ]
    return {name: _interval(column, level) for name, column in zip(FIGURES, np.array(drawn).T, strict=True)}


def classification_report(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Return everything to report about a set of scans, JSON-able (undefined numbers are None).

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]`` integers.
        classes: names of the K classes.
        groups: patient of each scan, see :func:`bootstrap_intervals`.
        resamples: draws of the bootstrap.
        level: confidence level of the intervals.
        seed: of the bootstrap.
    """
    counts = confusion_matrix(probabilities, labels)
    recall = counts.diagonal() / np.where(counts.sum(axis=1) > 0, counts.sum(axis=1), np.nan)
    intervals = bootstrap_intervals(probabilities, labels, groups, resamples, level, seed)
    report: dict[str, Any] = {
        "num_scans": int(counts.sum()),
        **classification_figures(probabilities, labels),
        "intervals": intervals,
        "bootstrap": {"level": level, "resamples": resamples, "unit": "scan" if groups is None else "group"},
        "auroc_per_class": dict(zip(classes, auroc_per_class(probabilities, labels).tolist(), strict=True)),
        "recall_per_class": dict(zip(classes, recall.tolist(), strict=True)),
        "confusion_matrix": counts.tolist(),
    }
    return _without_nan(report)


def key_score(name: str) -> EpochMetric:
    """One of ``FIGURES`` as a metric of an Ignite engine whose output holds logits ``pred`` and ``label``.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in FIGURES:
        raise ValueError(f"Unknown key metric {name!r}; known: {', '.join(FIGURES)}.")

    def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
        return classification_figures(logits.softmax(dim=1).numpy(), labels.numpy())[name]

    return EpochMetric(
        compute,
        output_transform=lambda output: (output["pred"].float().cpu(), output["label"].long().cpu()),
        check_compute_fn=False,
    )


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or truth.shape != values.shape[:1] or not len(truth):
        raise ValueError(f"Need probabilities [N, K] and labels [N], N > 0, received {values.shape} and {truth.shape}.")
    if np.isnan(values).any():
        raise ValueError("Probabilities hold NaN: the network diverged. Lower the learning rate.")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(f"Labels must lie in [0, {values.shape[1]}), got {truth.min()} to {truth.max()}.")
    return values, truth.astype(np.int64)


def _draws(count: int, groups: Sequence[Any] | None, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    names = np.arange(count) if groups is None else np.asarray([str(group) for group in groups])
    if len(names) != count:
        raise ValueError(f"{len(names)} groups were given for {count} scans.")
    _, group_of = np.unique(names, return_inverse=True)
    members = [np.flatnonzero(group_of == index) for index in range(group_of.max() + 1)]
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([members[index] for index in generator.integers(len(members), size=len(members))])


def _interval(values: NDArray[np.float64], level: float) -> list[float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return [float("nan"), float("nan")]
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
