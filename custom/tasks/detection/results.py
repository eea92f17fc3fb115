# SPDX-License-Identifier: Apache-2.0
"""Predicted boxes as files: COCO for pictures, JSON and CSV with millimetres for all scans."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom.files import write_atomically
from custom.tasks.detection.geometry import world_boxes
from custom.tasks.results import write_json

_AXES = "xyz"


@dataclass(frozen=True)
class BoxCase:
    """Boxes of one scan, voxel edges on the grid of its file.

    Attributes:
        scan_id: name of the scan.
        image: path of the scan; ``series_uid`` where that is a folder of DICOM series.
        size: voxels along each axis.
        boxes: predicted, ``[M, 2 * d]`` float64.
        labels: ``[M]``.
        scores: ``[M]``.
        true_boxes: ``[N, 2 * d]``; None if nobody said what is there.
        true_labels: ``[N]``; likewise.
        to_world: ``[4, d + 1]``, voxel indices to RAS+ millimetres; None for pictures, which have no place in space.
        series_uid: see ``image``.
    """

    scan_id: str
    image: str
    size: list[int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    true_boxes: NDArray[np.float64] | None = None
    true_labels: NDArray[np.int64] | None = None
    to_world: NDArray[np.float64] | None = None
    series_uid: str | None = None

    def predicted(self) -> dict[str, Any]:
        """Predictions in the form of :mod:`custom.metrics.boxes`."""
        return {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}

    def outlines(self, of_truth: bool) -> list[dict[str, Any]]:
        """Return what COCO's files say of the predicted or the true objects beside their boxes: here nothing."""
        boxes = self.truth()["boxes"] if of_truth else self.boxes
        return [{} for _ in boxes]

    def truth(self) -> dict[str, Any]:
        """True objects in that form.

        Raises:
            ValueError: if they are unknown.
        """
        if self.true_boxes is None:
            raise ValueError(f"{self.scan_id}: nothing tells the objects of this scan, so it cannot be measured.")
        return {"boxes": self.true_boxes, "labels": self.true_labels}


def save_boxes(
    cases: Sequence[BoxCase], classes: Sequence[str], thresholds: Mapping[str, float], folder: Path
) -> list[Path]:
    """Write all predictions.

    Files:
        ``boxes.json``: scans with their size, and of every predicted box class, score, whether the score reaches the
        threshold of the class (``kept``), the box in voxel edges of the file (``box``) and, for scans with a place in
        space, ``center_mm``, ``size_mm`` along the file's axes and ``corners_mm`` (RAS+, see
        :func:`custom.tasks.detection.geometry.world_boxes`). ``boxes.csv``: the same without corners, a row each.
        For pictures and slices ``coco_results.json`` (a list of ``image_id, category_id, bbox, score``, as pycocotools'
        ``loadRes`` takes it) and ``coco_images.json`` (the images and categories that its ids mean, and the true boxes
        where they are known).

    Args:
        cases: predictions of scans.
        classes: names.
        thresholds: class -> score.
        folder: where the files go.
    """
    scans = [_scan(case, classes, thresholds) for case in cases]
    files = [write_json(folder / "boxes.json", {"classes": list(classes), "scans": scans})]
    files.append(_write_rows(folder / "boxes.csv", scans, len(cases[0].size) if cases else 2))
    if cases and len(cases[0].size) == 2:
        files += _write_coco(cases, classes, folder)
    return files


def _scan(case: BoxCase, classes: Sequence[str], thresholds: Mapping[str, float]) -> dict[str, Any]:
    places: list[dict[str, Any]] = [{} for _ in case.boxes]
    if case.to_world is not None:
        places = world_boxes(case.boxes, case.to_world)
    found = []
    for box, label, score, place in zip(case.boxes, case.labels, case.scores, places, strict=True):
        name = classes[int(label)]
        kept = bool(score >= thresholds.get(name, 0.0))
        found.append({"class": name, "score": float(score), "kept": kept, "box": box.tolist(), **place})
    return {"scan_id": case.scan_id, "size": list(case.size), "boxes": found}


def _write_rows(path: Path, scans: Sequence[Mapping[str, Any]], dims: int) -> Path:
    axes = _AXES[:dims]
    edges = [f"{axis}_{side}" for side in ("min", "max") for axis in axes]
    centre, lengths = [f"center_{axis}_mm" for axis in _AXES], [f"size_{axis}_mm" for axis in axes]
    columns = ["scan_id", "class", "score", "kept", *edges, *centre, *lengths]

    def write(target: Path) -> None:
        with open(target, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            for scan in scans:
                for each in scan["boxes"]:
                    place = [*each.get("center_mm", [""] * 3), *each.get("size_mm", [""] * dims)]
                    writer.writerow([scan["scan_id"], each["class"], each["score"], each["kept"], *each["box"], *place])

    return write_atomically(path, write)


def _write_coco(cases: Sequence[BoxCase], classes: Sequence[str], folder: Path) -> list[Path]:
    images, truths, results = [], [], []
    for number, case in enumerate(cases, start=1):
        images.append({"id": number, "file_name": case.scan_id, "width": case.size[0], "height": case.size[1]})
        found = zip(case.boxes, case.labels, case.scores, case.outlines(of_truth=False), strict=True)
        for box, label, score, outline in found:
            results.append({**_coco_box(number, box, label), **outline, "score": float(score)})
        if case.true_boxes is not None and case.true_labels is not None:
            known = zip(case.true_boxes, case.true_labels, case.outlines(of_truth=True), strict=True)
            truths += [{**_coco_box(number, box, label), **outline} for box, label, outline in known]
    annotations = [
        {"id": number, "area": each["bbox"][2] * each["bbox"][3], **each, "iscrowd": 0}
        for number, each in enumerate(truths, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    text = json.dumps(results) + "\n"
    return [
        write_json(folder / "coco_images.json", content),
        write_atomically(folder / "coco_results.json", lambda target: target.write_text(text)),
    ]


def _coco_box(image: int, box: NDArray, label: Any) -> dict[str, Any]:
    x, y, right, bottom = (float(edge) for edge in box)
    return {"image_id": image, "category_id": int(label) + 1, "bbox": [x, y, right - x, bottom - y]}
