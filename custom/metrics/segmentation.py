# SPDX-License-Identifier: Apache-2.0
"""Overlap, surface distances and volumes of segmentations, computed by MONAI's metrics, with bootstrap intervals.

Rules where a class is absent from a scan (None in reports, NaN in arrays: undefined, left out of means):

============================  ===========  ====  =================
the class is                  Dice, IoU,   HD95  volume difference
                              NSD
============================  ===========  ====  =================
in neither map                undefined    undefined   0
in the truth only (missed)    0            undefined   minus the true volume
in the prediction only        0            undefined   the predicted volume
in both                       measured     measured    measured
============================  ===========  ====  =================

HD95 alone would therefore flatter a network that finds little: ``missed`` and ``invented``, the numbers of scans in the
second and third row, stand beside it, as does ``absent``, that of the first row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from numpy.typing import ArrayLike, NDArray

from custom.metrics.resampling import drawn_weights, interval

SEGMENTATION_FIGURES = ("dice", "iou", "hd95", "nsd")
# Figure -> the counts of a report that say how many scans of a class its mean leaves out.
LEFT_OUT = {
    "dice": ("absent",),
    "iou": ("absent",),
    "hd95": ("missed", "invented", "absent"),
    "nsd": ("absent",),
}


@dataclass(frozen=True)
class ScanFigures:
    """One scan's figures, ``[K]`` each, float64, NaN where undefined; K classes without the background.

    Attributes:
        dice: overlap, in [0, 1].
        iou: overlap, in [0, 1].
        hd95: 95th percentile of the surface distances, the larger of the two directions; millimetres, or pixels.
        nsd: share of both surfaces that lies within the tolerance of the other, in [0, 1].
        true_volume: of the truth: millilitres (volumes), square millimetres (slices) or pixels.
        predicted_volume: likewise, of the prediction.
    """

    dice: NDArray[np.float64]
    iou: NDArray[np.float64]
    hd95: NDArray[np.float64]
    nsd: NDArray[np.float64]
    true_volume: NDArray[np.float64]
    predicted_volume: NDArray[np.float64]

    @property
    def mean_dice(self) -> float | None:
        """Mean over the classes that are there; None if there is none in either map."""
        known = self.dice[~np.isnan(self.dice)]
        return float(known.mean()) if len(known) else None


def scan_figures(
    prediction: ArrayLike,
    truth: ArrayLike,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float = 1.0,
    voxel: float = 1.0,
) -> ScanFigures:
    """Measure one scan, on its own grid.

    Args:
        prediction: class of each voxel, ``[*spatial]`` integers in [0, K]; 0 is the background.
        truth: likewise.
        num_classes: K.
        spacing: size of a voxel an axis, in the unit of distances (millimetres, or pixels for pictures).
        tolerance: of NSD, in the same unit, at least 0 (Nikolov et al., arXiv 1809.04430: how far two experts differ).
        voxel: size of a voxel in the unit of volumes.

    Raises:
        ValueError: if shapes or numbers do not fit.
    """
    found, true = np.asarray(prediction), np.asarray(truth)
    if found.shape != true.shape or found.ndim != len(spacing):
        raise ValueError(
            f"A prediction {found.shape} and a truth {true.shape} must agree, and with {len(spacing)} axes."
        )
    if tolerance < 0 or not all(size > 0 for size in spacing):
        raise ValueError(f"The tolerance must be at least 0 and the spacing positive; got {tolerance} and {spacing}.")
    overlap = np.full((4, num_classes), np.nan)
    volumes = np.zeros((2, num_classes))
    for index in range(num_classes):
        pair = found == index + 1, true == index + 1
        volumes[:, index] = [part.sum() * voxel for part in pair]
        overlap[:, index] = _class_figures(*pair, spacing, tolerance)
    dice, iou, hd95, nsd = overlap
    return ScanFigures(dice, iou, hd95, nsd, true_volume=volumes[1], predicted_volume=volumes[0])


def segmentation_report(
    scans: Sequence[ScanFigures],
    classes: Sequence[str],
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Return everything to report about a set of scans, JSON-able; what is undefined is None.

    A class's figure is the mean over the scans where it is defined, a figure of the whole the mean of its classes.
    ``present``, ``missed``, ``invented`` and ``absent`` count scans of a class, for the whole summed over the classes;
    :data:`LEFT_OUT` says which of them a figure leaves out.

    Args:
        scans: at least one.
        classes: names of the K classes.
        groups: patient of each scan; the bootstrap then draws patients.
        resamples: draws of the bootstrap; 0: no intervals.
        level: confidence level of the intervals.
        seed: of the bootstrap.
    """
    values = {name: np.stack([getattr(scan, name) for scan in scans]) for name in SEGMENTATION_FIGURES}
    true = np.stack([scan.true_volume for scan in scans])
    found = np.stack([scan.predicted_volume for scan in scans])
    once = np.ones((1, len(scans)), dtype=np.int64)
    per_class = {name: _class_means(once, each)[0] for name, each in values.items()}
    report: dict[str, Any] = {"num_scans": len(scans)}
    report |= {name: _number(_mean(means)) for name, means in per_class.items()} | _counts(true > 0, found > 0)
    report["classes"] = {
        name: {
            **{figure: _number(means[index]) for figure, means in per_class.items()},
            "volume_difference": _number((found - true)[:, index].mean()),
            "absolute_volume_difference": _number(np.abs(found - true)[:, index].mean()),
            **_counts(true[:, index] > 0, found[:, index] > 0),
        }
        for index, name in enumerate(classes)
    }
    if resamples:
        weights = drawn_weights(len(scans), groups, resamples, seed)
        drawn = {name: _class_means(weights, each) for name, each in values.items()}
        report["intervals"] = {
            figure: interval(np.array([_mean(row) for row in means]), level) for figure, means in drawn.items()
        }
        report["bootstrap"] = {"level": level, "resamples": resamples, "unit": "scan" if groups is None else "group"}
        for index, name in enumerate(classes):
            own = {figure: interval(means[:, index], level) for figure, means in drawn.items()}
            report["classes"][name]["intervals"] = own
    return report


def left_out(figures: Mapping[str, Any], figure: str) -> dict[str, int]:
    """Return how many scans of a class a mean leaves out, and why: ``{"missed": 3, "invented": 1}``.

    Args:
        figures: a report of :func:`segmentation_report`, or its block of one class.
        figure: one of its figures; those of other reports leave out nothing that is known here.
    """
    return {kind: figures[kind] for kind in LEFT_OUT.get(figure, ()) if figures.get(kind)}


def figure_text(figures: Mapping[str, Any], figure: str, unit: str = "") -> str:
    """Return a mean, and in brackets what it leaves out: "4.200 mm (without 2 missed)"; arguments: :func:`left_out`."""
    value = figures[figure]
    said = "undefined" if value is None else f"{value:.3f}{unit}"
    return said + without(left_out(figures, figure))


def without(counts: Mapping[str, int]) -> str:
    """Say what a mean leaves out: " (without 3 missed, 1 invented)"; empty if that is nothing."""
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f" (without {words})" if words else ""


def _counts(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> dict[str, int]:
    kinds = {"present": true, "missed": true & ~found, "invented": ~true & found, "absent": ~true & ~found}
    return {kind: int(scans.sum()) for kind, scans in kinds.items()}


def _class_figures(
    found: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> list[float]:
    """Dice, IoU, HD95 and NSD of one class."""
    if not found.any() and not true.any():
        return [np.nan] * 4
    if not found.any() or not true.any():
        return [0.0, 0.0, np.nan, 0.0]
    box = _bounding_box(found | true)
    one, two = (torch.from_numpy(np.ascontiguousarray(part[box]))[None, None] for part in (found, true))
    sizes = [float(size) for size in spacing]
    figures = (
        compute_dice(one, two, include_background=True),
        compute_iou(one, two, include_background=True),
        compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=sizes),
        compute_surface_dice(one, two, [float(tolerance)], include_background=True, spacing=sizes),
    )
    return [float(figure.item()) for figure in figures]


def _bounding_box(region: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Around a region; one voxel wider where the array goes on, so that a surface stays one."""
    axes = [np.flatnonzero(region.any(axis=tuple(set(range(region.ndim)) - {axis}))) for axis in range(region.ndim)]
    return tuple(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2) for found in axes)


def _class_means(weights: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over scans ``[draws, K]`` of values ``[N, K]``, each scan weighted; NaN where no scan counts."""
    known = ~np.isnan(values)
    counts = (weights @ known).astype(np.float64)
    return (weights @ np.where(known, values, 0.0)) / np.where(counts > 0, counts, np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
