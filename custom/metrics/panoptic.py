# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality of instances in label maps, in 2D and 3D.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4.

Instances are the positive values of an integer map: they do not overlap. A predicted and a true instance match if their
intersection over union exceeds 0.5, which at most one pair can. Then, over all scans,

- recognition quality RQ = TP / (TP + FP / 2 + FN / 2), the F1 of instances;
- segmentation quality SQ = mean IoU of the matched pairs;
- panoptic quality PQ = RQ * SQ.

Where there is neither a true nor a predicted instance PQ and RQ are undefined (None), without a match SQ is. Figures of
several scans are those of their summed counts, so empty scans count by their false positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom.metrics.resampling import bootstrap

FIGURES = ("pq", "rq", "sq")


@dataclass(frozen=True)
class Pairs:
    """Matched instances of one scan: ids in the truth ``[P]``, in the prediction ``[P]``, and their IoU ``[P]``."""

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    iou: NDArray[np.float64]
    num_truth: int
    num_predicted: int

    @property
    def counts(self) -> NDArray[np.float64]:
        """True positives, false positives, false negatives, sum of IoU, ``[4]``."""
        matched = len(self.iou)
        return np.array([matched, self.num_predicted - matched, self.num_truth - matched, self.iou.sum()])


def match_instances(truth: ArrayLike, prediction: ArrayLike, threshold: float = 0.5) -> Pairs:
    """Match the instances of two maps.

    Args:
        truth: ``[*spatial]`` integers, 0 is background.
        prediction: the same.
        threshold: IoU that a pair must exceed, in [0.5, 1): below, matches would not be unique.

    Raises:
        ValueError: if shapes differ, a map holds other than integers from 0, or the threshold is lower.
    """
    if not 0.5 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0.5, 1), where matches are unique, received {threshold}.")
    true_map, predicted_map = _checked(truth, "The truth"), _checked(prediction, "The prediction")
    if true_map.shape != predicted_map.shape:
        raise ValueError(f"Maps differ in shape: truth {true_map.shape}, prediction {predicted_map.shape}.")
    true_ids, true_index, true_sizes = _instances(true_map)
    predicted_ids, predicted_index, predicted_sizes = _instances(predicted_map)
    both = np.zeros((len(true_ids), len(predicted_ids)), dtype=np.int64)
    np.add.at(both, (true_index, predicted_index), 1)
    iou = both / (true_sizes[:, None] + predicted_sizes[None] - both)
    matched = (iou > threshold) & (true_ids[:, None] > 0) & (predicted_ids[None] > 0)
    rows, columns = np.nonzero(matched)
    return Pairs(
        true_ids[rows],
        predicted_ids[columns],
        iou[rows, columns],
        int((true_ids > 0).sum()),
        int((predicted_ids > 0).sum()),
    )


def panoptic_figures(counts: ArrayLike) -> dict[str, float | None]:
    """``pq, rq, sq`` of counts ``[4]`` or ``[S, 4]`` (:attr:`Pairs.counts`), which are summed."""
    found, false, missed, overlap = np.asarray(counts, dtype=np.float64).reshape(-1, 4).sum(axis=0)
    weight = found + false / 2 + missed / 2
    return {
        "pq": float(overlap / weight) if weight else None,
        "rq": float(found / weight) if weight else None,
        "sq": float(overlap / found) if found else None,
    }


def panoptic_report(
    pairs: Sequence[Sequence[Pairs]],
    classes: Sequence[str],
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything to report about a set of scans, JSON-able.

    Args:
        pairs: of each scan, of each class: :func:`match_instances` of the maps of that class.
        classes: names of the classes.
        groups: patient of each scan: whole patients are drawn by the bootstrap.
        resamples: draws of the bootstrap; 0: no intervals.
        level: confidence level.
        seed: of the draws.

    Returns:
        ``num_scans``; ``pq, rq, sq``: means over the classes for which they are defined (None without one);
        ``per_class``: name -> the three and the counts; ``intervals`` of the three and ``bootstrap``.
    """
    counts = np.array([[found.counts for found in scan] for scan in pairs]).reshape(len(pairs), len(classes), 4)
    report: dict[str, Any] = {
        "num_scans": len(pairs),
        **_mean_over_classes(counts),
        "per_class": {name: _class_report(counts[:, index]) for index, name in enumerate(classes)},
    }
    if resamples and len(pairs):

        def interval_of(figure: str) -> list[float] | None:
            def drawn(weights: NDArray[np.int64]) -> float | None:
                return _mean_over_classes(counts * weights[:, None, None])[figure]

            return bootstrap(drawn, len(pairs), groups, resamples, level, seed)

        report["intervals"] = {figure: interval_of(figure) for figure in FIGURES}
        report["bootstrap"] = {"level": level, "resamples": resamples, "unit": "scan" if groups is None else "group"}
    return report


def _class_report(counts: NDArray[np.float64]) -> dict[str, Any]:
    found, false, missed, _ = counts.sum(axis=0)
    return {
        **panoptic_figures(counts),
        "true_positives": int(found),
        "false_positives": int(false),
        "false_negatives": int(missed),
    }


def _mean_over_classes(counts: NDArray[np.float64]) -> dict[str, float | None]:
    by_class = [panoptic_figures(counts[:, index]) for index in range(counts.shape[1])]
    means: dict[str, float | None] = {}
    for figure in FIGURES:
        known = [value for figures in by_class if (value := figures[figure]) is not None]
        means[figure] = float(np.mean(known)) if known else None
    return means


def _instances(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    ids, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return ids, index.ravel(), sizes


def _checked(labels: ArrayLike, what: str) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
        raise ValueError(f"{what} must hold integers from 0 (background), received {values.dtype}.")
    return values.astype(np.int64)
