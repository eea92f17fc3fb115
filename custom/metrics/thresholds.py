# SPDX-License-Identifier: Apache-2.0
"""From probabilities to decisions: a threshold for each class, chosen on one set of scans, measured on another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

RULES = ("youden", "f1")


def choose_thresholds(probabilities: ArrayLike, labels: ArrayLike, rule: str = "youden") -> NDArray[np.float64]:
    """Choose for each class the threshold that serves best on the scans given, ``[K]``.

    A scan has a class whose probability is at least the threshold. Thresholds lie half-way between neighbouring
    probabilities, so that rounding elsewhere does not turn a decision; among equally good ones the one nearest to 0.5
    is taken.

    Args:
        probabilities: ``[N, K]`` in [0, 1].
        labels: ``[N, K]`` zeros and ones.
        rule: "youden": the largest sensitivity + specificity - 1 (Youden, Cancer 3:32, 1950); "f1": the largest F1.

    Returns:
        One threshold a class; NaN where no scan or every scan has it, so that nothing can be chosen.

    Raises:
        ValueError: if the rule is unknown.
    """
    check_rule(rule)
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=bool)
    chosen = [_choose(column, positive, rule) for column, positive in zip(values.T, truth.T, strict=True)]
    return np.array(chosen, dtype=np.float64)


def check_rule(rule: str) -> None:
    """Raise ValueError, with the known ones, if there is no such rule."""
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r} for thresholds; known: {', '.join(RULES)}.")


def threshold_figures(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Return :func:`decisions_per_class` of the decisions that thresholds make.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N, K]`` zeros and ones.
        thresholds: ``[K]``.
    """
    return decisions_per_class(np.asarray(probabilities) >= np.asarray(thresholds), np.asarray(labels, dtype=bool))


def decisions_per_class(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return sensitivity, specificity, precision and F1 of each class, ``[K]`` each.

    Args:
        predicted: ``[N, K]``, what was decided.
        positive: ``[N, K]``, what is true.

    Returns:
        Name -> values; NaN where a figure is undefined: sensitivity and F1 without a scan that has the class,
        specificity where every scan has it, precision where none was decided to have it.
    """
    hits = (predicted & positive).sum(axis=0)
    misses, false_alarms = (~predicted & positive).sum(axis=0), (predicted & ~positive).sum(axis=0)
    negatives = (~positive).sum(axis=0)
    f1 = _ratio(2 * hits, 2 * hits + misses + false_alarms)
    return {
        "sensitivity": _ratio(hits, hits + misses),
        "specificity": _ratio(negatives - false_alarms, negatives),
        "precision": _ratio(hits, hits + false_alarms),
        "f1": np.where(hits + misses > 0, f1, np.nan),
    }


def macro_means(per_class: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Mean of each figure over the classes for which it is defined; NaN if there is none."""
    known = {name: values[~np.isnan(values)] for name, values in per_class.items()}
    return {f"macro_{name}": float(values.mean()) if len(values) else float("nan") for name, values in known.items()}


def _choose(values: NDArray[np.float64], positive: NDArray[np.bool_], rule: str) -> float:
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    levels, index = np.unique(values, return_inverse=True)
    # Scans at each level or above it: those that a threshold just below the level calls positive.
    hits = np.bincount(index, positive, len(levels))[::-1].cumsum()[::-1]
    false_alarms = np.bincount(index, ~positive, len(levels))[::-1].cumsum()[::-1]
    if rule == "youden":
        quality = hits / positives - false_alarms / negatives
    else:
        quality = 2 * hits / (hits + false_alarms + positives)
    between = (levels + np.concatenate([[0.0], levels[:-1]])) / 2
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(between[best[np.abs(between[best] - 0.5).argmin()]])


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
