# SPDX-License-Identifier: Apache-2.0
"""COCO average precision and recall of boxes and masks, in 2D and 3D; precision and recall at one score.

Matching and averaging are pycocotools' (Lin et al., Microsoft COCO, 2014; cocodataset.org, "Detection evaluation"),
which is given the overlaps: those of 3D boxes and masks are then treated exactly as those of 2D ones. MONAI's
``COCOMetric`` gives the same average precision up to its single precision, which moves a recall that is a multiple of
0.01 to the next point of the curve; it has no sizes and counts a class that does not occur as -1.

Objects of one scan, true or predicted, are a mapping of

- ``boxes``: ``[N, 2 * spatial_dims]``, StandardMode (xmin, ymin(, zmin), xmax, ymax(, zmax)), voxel edges;
- ``labels``: ``[N]`` integers from 0;
- ``scores``: ``[N]``, of predictions only;
- ``masks``: ``[N, *spatial]`` boolean, or a list of N run-length encodings of :func:`encode_masks`; for masks only.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom.metrics.resampling import drawn_weights, interval

Objects = Mapping[str, Any]
Kind = Literal["boxes", "masks"]

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""From 0.5 to 0.95 in steps of 0.05."""
COCO_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Limits of COCO's sizes, in pixels of area, made for photographs of 640 px."""
_RECALLS = np.linspace(0.0, 1.0, 101)


def box_iou(boxes: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair, ``[N, M]``, of boxes ``[N, 2 * d]`` and ``[M, 2 * d]``.

    Boxes that only touch have 0, as have boxes without extent. In double precision and without a small constant in the
    denominator (as MONAI's ``box_iou`` has), so that an overlap of exactly 0.5 is 0.5.
    """
    first, second = np.asarray(boxes, dtype=np.float64), np.asarray(others, dtype=np.float64)
    dims = first.shape[1] // 2
    low = np.maximum(first[:, None, :dims], second[None, :, :dims])
    high = np.minimum(first[:, None, dims:], second[None, :, dims:])
    both = (high - low).clip(min=0).prod(axis=2)
    union = box_size(first)[:, None] + box_size(second)[None] - both
    return both / np.where(both > 0, union, 1)


def box_size(boxes: ArrayLike) -> NDArray[np.float64]:
    """Area or volume in voxels of boxes ``[N, 2 * d]``, ``[N]``."""
    values = np.asarray(boxes, dtype=np.float64)
    dims = values.shape[1] // 2
    return (values[:, dims:] - values[:, :dims]).prod(axis=1)


def encode_masks(masks: ArrayLike) -> list[dict[str, Any]]:
    """Run-length encodings of masks ``[N, *spatial]``: small to keep, and accepted in place of the masks here.

    The scan is encoded as one long column, whatever its dimension; only masks of one grid can be compared.
    """
    from pycocotools import mask as coco_mask

    values = np.asarray(masks).astype(bool)
    if not len(values):
        return []
    columns = np.asfortranarray(values.reshape(len(values), -1).T[:, None, :].astype(np.uint8))
    return coco_mask.encode(columns)


def mask_iou(masks: Any, others: Any) -> NDArray[np.float64]:
    """Intersection over union of every pair of masks, ``[N, M]``; both in either form, see :func:`encode_masks`."""
    from pycocotools import mask as coco_mask

    first, second = _encoded(masks), _encoded(others)
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(first, second, [False] * len(second)))


def coco_figures(
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    kind: Kind = "boxes",
    sizes: Mapping[str, tuple[float, float]] | None = None,
    max_detections: tuple[int, ...] = (1, 10, 100),
) -> dict[str, Any]:
    """COCO's figures over all scans.

    Args:
        truths: true objects of each scan.
        predictions: predicted objects of the same scans.
        classes: names of the classes; labels index them.
        kind: overlap of ``boxes`` or of ``masks``.
        sizes: name -> (smallest, largest) area or volume in voxels of a size class, of the box or the mask; both bounds
            belong to it. None: figures by size are left out. COCO's own: ``COCO_SIZES``.
        max_detections: how many predictions of a class and scan count, best first, ascending; average precision takes
            the last, average recall each.

    Returns:
        ``ap`` (mean over IoU 0.5 to 0.95), ``ap50``, ``ap75``, ``ar_<n>``, ``ap_<size>``, ``ar_<size>``, in [0, 1],
        means over the classes that occur; ``per_class``: name -> ``ap, ap50, ap75, ar, num_objects``. None where there
        is no true object.

    Raises:
        ValueError: if something does not fit.
    """
    _check(truths, predictions, len(classes), kind)
    evaluation = _evaluate(truths, predictions, len(classes), kind, IOU_THRESHOLDS, sizes or {}, max_detections)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    figures: dict[str, Any] = {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap50": _mean(precision[0, :, :, 0, -1]),
        "ap75": _mean(precision[5, :, :, 0, -1]),
    }
    figures.update({f"ar_{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(max_detections)})
    for index, size in enumerate(sizes or {}, start=1):
        figures[f"ap_{size}"] = _mean(precision[:, :, :, index, -1])
        figures[f"ar_{size}"] = _mean(recall[:, :, index, -1])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(truth["labels"]) for truth in truths)])
    figures["per_class"] = {
        name: {
            "ap": _mean(precision[:, :, label, 0, -1]),
            "ap50": _mean(precision[0, :, label, 0, -1]),
            "ap75": _mean(precision[5, :, label, 0, -1]),
            "ar": _mean(recall[:, label, 0, -1]),
            "num_objects": int((labels == label).sum()),
        }
        for label, name in enumerate(classes)
    }
    return figures


@dataclass(frozen=True)
class Matches:
    """Which predictions found a true object at one IoU, matched once, to cut, to weight and to draw from.

    Predictions are matched greedily, best score first, within scan and class, so the predictions above any score are
    matched as they would be alone.

    Attributes:
        scan: ``[D]`` index of the scan of each prediction; predictions are in descending order of score (equal scores
            in the order of scans, as in pycocotools).
        label: ``[D]`` class.
        score: ``[D]``.
        hit: ``[D]`` boolean: found an object that no better prediction had found.
        objects: ``[S, K]`` number of true objects by scan and class.
    """

    scan: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def average_precision(self, weights: ArrayLike | None = None) -> float | None:
        """Mean over the classes that occur of COCO's 101-point interpolated average precision.

        Args:
            weights: ``[S]`` how often each scan counts; None: once.
        """
        times = np.ones(len(self.objects)) if weights is None else np.asarray(weights, dtype=np.float64)
        known = [self._class_precision(label, times) for label in range(self.objects.shape[1])]
        defined = [value for value in known if value is not None]
        return float(np.mean(defined)) if defined else None

    def _class_precision(self, label: int, times: NDArray[np.float64]) -> float | None:
        total = float((times * self.objects[:, label]).sum())
        if not total:
            return None
        own = self.label == label
        weight, hit = times[self.scan[own]], self.hit[own]
        found, all_so_far = np.cumsum(weight * hit), np.cumsum(weight)
        precision = np.maximum.accumulate((found / np.maximum(all_so_far, 1e-12))[::-1])[::-1]
        place = np.searchsorted(found / total, _RECALLS, side="left")
        return float(np.append(precision, 0.0)[place].mean())

    def at(self, threshold: float) -> dict[str, float | int | None]:
        """Precision, recall and F1 of the predictions with at least this score, all classes counted together.

        Returns:
            ``score_threshold, precision, recall, f1, true_positives, false_positives, false_negatives``. Precision is
            None without a prediction, recall without a true object, F1 without either.
        """
        kept = self.score >= threshold
        found = int(self.hit[kept].sum())
        predicted, existing = int(kept.sum()), int(self.objects.sum())
        return {
            "score_threshold": float(threshold),
            "precision": found / predicted if predicted else None,
            "recall": found / existing if existing else None,
            "f1": 2 * found / (predicted + existing) if predicted + existing else None,
            "true_positives": found,
            "false_positives": predicted - found,
            "false_negatives": existing - found,
        }

    def best_threshold(self, fallback: float = 0.5) -> float:
        """Score from which predictions are kept for the highest F1, the highest of several; ``fallback`` without a hit.

        Scores are compared with ``>=``.
        """
        if not self.hit.any():
            return fallback
        last = np.append(self.score[1:] != self.score[:-1], True)  # a cut cannot part equal scores
        f1 = 2 * np.cumsum(self.hit) / (np.arange(1, len(self.hit) + 1) + self.objects.sum())
        return float(self.score[last][np.argmax(f1[last])])


def match_objects(
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    num_classes: int,
    kind: Kind = "boxes",
    iou: float = 0.5,
    max_detections: int = 100,
) -> Matches:
    """Match predictions with the true objects at one IoU, see :class:`Matches`; arguments as in :func:`coco_figures`.

    ``match_objects(...).average_precision()`` is the average precision at this IoU, at a small part of the time that
    all figures take.
    """
    _check(truths, predictions, num_classes, kind)
    evaluation = _evaluate(truths, predictions, num_classes, kind, (iou,), {}, (max_detections,))
    parts = [part for part in evaluation.evalImgs if part is not None]
    scan = _joined([np.full(len(part["dtScores"]), part["image_id"]) for part in parts], np.int64)
    label = _joined([np.full(len(part["dtScores"]), part["category_id"]) for part in parts], np.int64)
    score = _joined([np.asarray(part["dtScores"]) for part in parts], np.float64)
    hit = _joined([part["dtMatches"][0] > 0 for part in parts], np.bool_)
    order = np.argsort(-score, kind="stable")
    objects = np.zeros((len(truths), num_classes), dtype=np.int64)
    for index, truth in enumerate(truths):
        objects[index] = np.bincount(np.asarray(truth["labels"], dtype=np.int64), minlength=num_classes)
    return Matches(scan[order], label[order], score[order], hit[order], objects)


def detection_report(
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    kind: Kind = "boxes",
    sizes: Mapping[str, tuple[float, float]] | None = None,
    score_threshold: float = 0.5,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    max_detections: tuple[int, ...] = (1, 10, 100),
) -> dict[str, Any]:
    """Everything to report about a set of scans, JSON-able (undefined figures are None).

    Args:
        truths: see :func:`coco_figures`, like the next four.
        predictions: all of them, not only those above the threshold.
        classes: names.
        kind: of overlap.
        sizes: limits of size classes.
        score_threshold: where ``at_threshold`` is taken: chosen on other scans, :meth:`Matches.best_threshold`.
        groups: patient of each scan: whole patients are drawn by the bootstrap.
        resamples: draws of the bootstrap of ``ap50``; 0: no interval.
        level: confidence level.
        seed: of the draws.
        max_detections: see :func:`coco_figures`.

    Returns:
        ``num_scans``, ``num_objects``, COCO's figures, ``at_threshold`` (:meth:`Matches.at`, IoU 0.5), ``intervals``
        (``ap50``) and ``bootstrap`` (how they were made).
    """
    figures = coco_figures(truths, predictions, classes, kind, sizes, max_detections)
    matches = match_objects(truths, predictions, len(classes), kind, 0.5, max_detections[-1])
    report: dict[str, Any] = {
        "num_scans": len(truths),
        "num_objects": int(matches.objects.sum()),
        **figures,
        "at_threshold": matches.at(score_threshold),
    }
    if resamples and truths:
        draws = drawn_weights(len(truths), groups, resamples, seed)
        report["intervals"] = {"ap50": precision_interval(matches, draws, level)}
        report["bootstrap"] = {"level": level, "resamples": resamples, "unit": "scan" if groups is None else "group"}
    return report


def precision_interval(matches: Matches, draws: NDArray[np.int64], level: float = 0.95) -> list[float] | None:
    """Bootstrap interval of the average precision of ``matches``, of draws of :func:`drawn_weights`."""
    drawn = [matches.average_precision(weights) for weights in draws]
    return interval([float("nan") if value is None else value for value in drawn], level)


def _evaluate(
    truths: Sequence[Objects],
    predictions: Sequence[Objects],
    num_classes: int,
    kind: Kind,
    thresholds: Sequence[float],
    sizes: Mapping[str, tuple[float, float]],
    max_detections: tuple[int, ...],
) -> Any:
    """Pycocotools' evaluation of overlaps that are computed here; its area range 0 is everything, then ``sizes``."""
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 (pycocotools' name)
            found, existing = self._dts[imgId, catId], self._gts[imgId, catId]
            if not found or not existing:
                return []
            order = np.argsort([-item["score"] for item in found], kind="stable")[: self.params.maxDets[-1]]
            compare = box_iou if kind == "boxes" else mask_iou
            return compare(_shapes([found[index] for index in order], kind), _shapes(existing, kind))

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = Evaluation(_database(truths, num_classes, kind), _database(predictions, num_classes, kind), "bbox")
        evaluation.params.imgIds = list(range(len(truths)))
        evaluation.params.catIds = list(range(num_classes))
        evaluation.params.iouThrs = np.asarray(thresholds)
        evaluation.params.areaRng = [[0.0, float("inf")], *map(list, sizes.values())]
        evaluation.params.areaRngLbl = ["all", *sizes]
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _database(scans: Sequence[Objects], num_classes: int, kind: Kind) -> Any:
    """Objects of all scans as pycocotools keeps them; each carries its box or mask."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for scan, objects in enumerate(scans):
        shapes = _encoded(objects["masks"]) if kind == "masks" else np.asarray(objects["boxes"], dtype=np.float64)
        areas = _areas(shapes)
        scores = objects.get("scores")
        for index, label in enumerate(np.asarray(objects["labels"]).tolist()):
            annotation = {
                "id": len(annotations) + 1,  # pycocotools takes 0 for unmatched
                "image_id": scan,
                "category_id": label,
                "shape": shapes[index],
                "area": areas[index],
                "iscrowd": 0,
            }
            if scores is not None:
                annotation["score"] = float(scores[index])
            annotations.append(annotation)
    database = COCO()
    database.dataset = {
        "images": [{"id": scan} for scan in range(len(scans))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations,
    }
    database.createIndex()
    return database


def _shapes(items: Sequence[Mapping[str, Any]], kind: Kind) -> Any:
    shapes = [item["shape"] for item in items]
    return shapes if kind == "masks" else np.stack(shapes)


def _areas(shapes: Any) -> list[float]:
    if isinstance(shapes, list):
        from pycocotools import mask as coco_mask

        return np.asarray(coco_mask.area(shapes), dtype=np.float64).tolist() if shapes else []
    return box_size(shapes).tolist() if len(shapes) else []


def _encoded(masks: Any) -> list[dict[str, Any]]:
    return masks if isinstance(masks, list) else encode_masks(masks)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]  # pycocotools' mark of what is not defined
    return float(known.mean()) if known.size else None


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)


def _check(truths: Sequence[Objects], predictions: Sequence[Objects], num_classes: int, kind: Kind) -> None:
    if len(truths) != len(predictions):
        raise ValueError(f"Truth of {len(truths)} scans was given for predictions of {len(predictions)}.")
    for scan, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        _check_objects(truth, num_classes, kind, f"True objects of scan {scan}")
        _check_objects(prediction, num_classes, kind, f"Predictions of scan {scan}")
        scores = np.asarray(prediction.get("scores", ()))
        if scores.shape != (len(prediction["labels"]),):
            raise ValueError(f"Predictions of scan {scan}: need one score for each, received {scores.shape}.")
        if np.isnan(scores).any():
            raise ValueError(f"Predictions of scan {scan}: scores hold NaN: the network diverged.")


def _check_objects(objects: Objects, num_classes: int, kind: Kind, what: str) -> None:
    labels = np.asarray(objects["labels"])
    shapes = objects[kind]
    if labels.ndim != 1 or len(shapes) != len(labels):
        raise ValueError(f"{what}: need labels [N] and as many {kind}, received {labels.shape} and {len(shapes)}.")
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"{what}: labels must lie in [0, {num_classes}), got {labels.min()} to {labels.max()}.")
    if kind == "boxes" and len(labels):
        boxes = np.asarray(shapes, dtype=np.float64)
        if boxes.ndim != 2 or boxes.shape[1] not in (4, 6):
            raise ValueError(f"{what}: boxes must be [N, 4] or [N, 6], received {boxes.shape}.")
        dims = boxes.shape[1] // 2
        if not (boxes[:, :dims] <= boxes[:, dims:]).all():
            raise ValueError(f"{what}: a box's upper edge lies below its lower one, or is NaN.")
