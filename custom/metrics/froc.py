# SPDX-License-Identifier: Apache-2.0
"""FROC: the share of objects that is found, against false positives per scan.

As in the LUNA16 challenge (Setio et al., Medical Image Analysis 42, 2017, section 4): sensitivity at 1/8, 1/4, 1/2, 1,
2, 4 and 8 false positives per scan, and their mean (the competition performance metric, Niemeijer et al., 2011).

A prediction that hits an object is no false positive, however many hit it; an object counts as found from the best
score among its hits. A prediction hits objects of its own class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom.metrics.boxes import Objects, box_iou
from custom.metrics.resampling import drawn_weights, interval

HitRule = Literal["iou", "centre", "mask"]
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan."""


@dataclass(frozen=True)
class Hits:
    """What was found in a set of scans.

    Attributes:
        object_scan: ``[G]`` index of the scan of each true object.
        object_score: ``[G]`` best score among the predictions that hit it; -inf if none does.
        false_scan: ``[F]`` index of the scan of each false positive.
        false_score: ``[F]``.
        num_scans: S.
    """

    object_scan: NDArray[np.int64]
    object_score: NDArray[np.float64]
    false_scan: NDArray[np.int64]
    false_score: NDArray[np.float64]
    num_scans: int

    def curve(self, weights: ArrayLike | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False positives per scan and sensitivity, ``[P]`` each, both rising: at no prediction, then at every score.

        Args:
            weights: ``[S]`` how often each scan counts; None: once.
        """
        times = np.ones(self.num_scans) if weights is None else np.asarray(weights, dtype=np.float64)
        scan, is_object, last = self._ranked
        weight = times[scan]
        false = np.cumsum(weight * ~is_object)[last] / times.sum()
        hit = np.cumsum(weight * is_object)[last] / max(float(times[self.object_scan].sum()), 1e-12)
        return np.append(0.0, false), np.append(0.0, hit)

    @cached_property
    def _ranked(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Found objects and false positives, best score first: scan, which of the two, last of equal scores."""
        found = np.isfinite(self.object_score)
        scores = np.concatenate([self.object_score[found], self.false_score])
        scan = np.concatenate([self.object_scan[found], self.false_scan])
        is_object = np.arange(len(scores)) < found.sum()
        order = np.argsort(-scores, kind="stable")
        last = np.append(scores[order][1:] != scores[order][:-1], True)[: len(scores)]
        return scan[order], is_object[order], last

    def sensitivities(self, rates: Sequence[float] = RATES, weights: ArrayLike | None = None) -> list[float] | None:
        """Sensitivity at each number of false positives per scan; None if no object is there to be found.

        Linear between the curve's points, and constant behind its last one, as LUNA16 and MONAI's
        ``compute_froc_score`` take it.
        """
        times = np.ones(self.num_scans) if weights is None else np.asarray(weights, dtype=np.float64)
        if not times[self.object_scan].sum():
            return None
        return [float(value) for value in np.interp(rates, *self.curve(weights))]


def find_hits(
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    rule: HitRule = "iou",
    iou: float = 0.1,
) -> Hits:
    """Find which true objects were hit, by which predictions.

    Args:
        truths: true objects of each scan, in the form of :mod:`custom.metrics.boxes` (``masks`` as arrays).
        predictions: predicted objects with scores of the same scans.
        rule: ``iou``: the boxes' overlap is at least ``iou``; ``centre``: the centre of the predicted box lies within
            the true box (lower edge included, upper one not); ``mask``: it lies in a voxel of the true object.
        iou: see ``rule``; in volumes small overlaps are customary.

    Raises:
        ValueError: if the numbers of scans differ or the rule is unknown.
    """
    if len(truths) != len(predictions):
        raise ValueError(f"Truth of {len(truths)} scans was given for predictions of {len(predictions)}.")
    if rule not in ("iou", "centre", "mask"):
        raise ValueError(f"Unknown rule {rule!r}; known: iou, centre, mask.")
    object_scan, object_score, false_scan, false_score = [], [], [], []
    for scan, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        hit = _hits(truth, prediction, rule, iou)
        scores = np.asarray(prediction["scores"], dtype=np.float64)
        object_score.append(np.where(hit, scores[:, None], -np.inf).max(axis=0, initial=-np.inf))
        false_score.append(scores[~hit.any(axis=1)])
        object_scan.append(np.full(len(object_score[-1]), scan))
        false_scan.append(np.full(len(false_score[-1]), scan))
    return Hits(
        _joined(object_scan, np.int64),
        _joined(object_score, np.float64),
        _joined(false_scan, np.int64),
        _joined(false_score, np.float64),
        len(truths),
    )


def froc_report(
    hits: Hits,
    rates: Sequence[float] = RATES,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Sensitivities and their mean, JSON-able.

    Args:
        hits: of :func:`find_hits`.
        rates: false positives per scan.
        groups: patient of each scan: whole patients are drawn by the bootstrap.
        resamples: draws of the bootstrap; 0: no interval.
        level: confidence level.
        seed: of the draws.

    Returns:
        ``false_positives_per_scan`` (the rates), ``sensitivity`` at each, ``mean_sensitivity`` and, in ``intervals``,
        its bootstrap interval; None where no object is there to be found.
    """
    found = hits.sensitivities(rates)
    report: dict[str, Any] = {
        "false_positives_per_scan": list(rates),
        "sensitivity": found,
        "mean_sensitivity": None if found is None else float(np.mean(found)),
    }
    if resamples and hits.num_scans:
        drawn = [hits.sensitivities(rates, row) for row in drawn_weights(hits.num_scans, groups, resamples, seed)]
        means = [float("nan") if values is None else float(np.mean(values)) for values in drawn]
        report["intervals"] = {"mean_sensitivity": interval(means, level)}
    return report


def _hits(truth: Objects, prediction: Objects, rule: HitRule, iou: float) -> NDArray[np.bool_]:
    """Whether each prediction hits each object, ``[N, G]``."""
    boxes = np.asarray(prediction["boxes"], dtype=np.float64)
    same = np.equal.outer(np.asarray(prediction["labels"]), np.asarray(truth["labels"]))
    if not same.size:
        return same
    dims = boxes.shape[1] // 2
    centres = (boxes[:, :dims] + boxes[:, dims:]) / 2
    if rule == "mask":
        masks = np.asarray(truth["masks"]).astype(bool)
        inside = np.all((centres >= 0) & (centres < masks.shape[1:]), axis=1)
        voxels = np.floor(centres).clip(0, np.array(masks.shape[1:]) - 1).astype(int)
        near = np.stack([mask[tuple(voxels.T)] for mask in masks], axis=1) & inside[:, None]
    elif rule == "centre":
        others = np.asarray(truth["boxes"], dtype=np.float64)
        above = (centres[:, None] >= others[None, :, :dims]).all(axis=2)
        near = above & (centres[:, None] < others[None, :, dims:]).all(axis=2)
    else:
        near = box_iou(boxes, truth["boxes"]) >= iou
    return near & same


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)
