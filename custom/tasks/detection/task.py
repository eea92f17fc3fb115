# SPDX-License-Identifier: Apache-2.0
"""Detection as a task: predictions on the grid of the file, figures, files and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from custom.metrics.boxes import Matches, box_iou, detection_report, match_objects
from custom.metrics.froc import find_hits, froc_report
from custom.tasks.detection.geometry import clip_boxes
from custom.tasks.detection.results import BoxCase, save_boxes
from custom.tasks.detection.training import plain_image
from custom.tasks.labelled import groups_of
from custom.visual.boxes import draw_boxes
from custom.visual.planes import view_of
from datasets import LoadScand
from datasets.formats import PICTURE, format_by_name
from datasets.geometry import map_boxes, stored_to_memory

THRESHOLD = 0.5  # of a class that was never found on the validation scans


@dataclass
class DetectionTask:
    """Boxes with classes and scores.

    Average precision is of all predictions; precision, recall and pictures are of those that reach the score threshold
    of their class, which :meth:`calibrate` chooses on the validation scans.

    Args:
        classes: names.
        sizes: name -> (smallest, largest) area or volume, in voxels of the file, of the figures by size.
        groups: patient of each scan, by scan id; the bootstrap then draws patients.
        resamples: draws of the bootstrap intervals; 0: none.
        seed: of the draws.
        froc_iou: intersection over union from which a prediction hits, in FROC.
        device: where the network runs, in full precision whatever training used.
        frame: of files that hold several volumes, for the pictures.
    """

    classes: Sequence[str]
    sizes: Mapping[str, Any] | None = None
    groups: Mapping[str, Any] | None = None
    resamples: int = 1000
    seed: int = 0
    froc_iou: float = 0.1
    device: torch.device | str = "cpu"
    frame: int | None = None

    name = "detection"

    def predict(self, network: nn.Module, loader: Iterable, progress: str) -> list[BoxCase]:
        """Return the boxes of every scan on the grid of its file.

        Args:
            network: a detector in evaluation mode.
            loader: lists of scans with ``image``, ``to_grid``, ``to_world`` and ``scan_size``.
            progress: words beside the progress bar.
        """
        cases = []
        for batch in tqdm(loader, desc=progress, leave=False):
            images = [plain_image(item, self.device) for item in batch]
            with torch.autocast(torch.device(self.device).type, enabled=False):
                outputs = network(images)
            cases += [self.case(item, output) for item, output in zip(batch, outputs, strict=True)]
        return cases

    def case(self, item: Mapping[str, Any], output: Mapping[str, Tensor]) -> BoxCase:
        """Return what is known of one scan, see :func:`box_case`."""
        return box_case(item, output)

    def overlaps(self, case: BoxCase) -> NDArray[np.float64]:
        """Return the overlaps ``[M, N]`` of predicted with true objects."""
        return box_iou(case.boxes, case.truth()["boxes"])

    def calibrate(self, cases: Sequence[BoxCase]) -> dict[str, Any]:
        """Choose for each class the score at which its F1 at an intersection over union of 0.5 is highest."""
        matches = self._matches(cases)
        chosen = {name: _of_class(matches, label).best_threshold(THRESHOLD) for label, name in enumerate(self.classes)}
        return {"score_thresholds": chosen}

    def report(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Return COCO's figures, those at the thresholds (``at_threshold``), ``froc``, and their intervals."""
        truths, predictions = [case.truth() for case in cases], [case.predicted() for case in cases]
        groups = groups_of(cases, self.groups)
        sizes = None if self.sizes is None else {name: (low, high) for name, (low, high) in self.sizes.items()}
        draws: dict[str, Any] = {"groups": groups, "resamples": self.resamples, "seed": self.seed}
        figures = detection_report(truths, predictions, self.classes, sizes=sizes, **draws)
        figures["at_threshold"] = self._at_thresholds(cases, decisions)
        figures["froc"] = froc_report(find_hits(truths, predictions, "iou", self.froc_iou), **draws)
        figures["froc"]["iou"] = self.froc_iou
        return figures

    def scores(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any]) -> dict[str, float]:
        """Return for each scan with objects or detections twice the overlaps of matched pairs over all objects.

        F1 in which a match counts as much as it overlaps; pairs are of one class and of any overlap, best first.
        """
        found = {}
        for case in cases:
            kept = self._kept(case, decisions)
            count = len(case.truth()["labels"]) + len(kept.labels)
            if count:
                found[case.scan_id] = 2 * self._matched_overlap(kept) / count
        return found

    def save(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write the predictions, see :func:`custom.tasks.detection.results.save_boxes`."""
        return save_boxes(cases, self.classes, decisions["score_thresholds"], Path(folder))

    def draw(self, case: BoxCase, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan as `datasets.LoadScand` turns it, its true boxes and those above the thresholds."""
        kept = self._kept(case, decisions)
        image = self._image(case)
        matrix = stored_to_memory(image)
        truth = None if kept.true_boxes is None else map_boxes(kept.true_boxes, matrix)
        words = [f"{self.classes[label]} {score:.2f}" for label, score in zip(kept.labels, kept.scores, strict=True)]
        scan = np.asarray(image.as_tensor())[0]
        draw_boxes(axes, scan, truth, map_boxes(kept.boxes, matrix), words, image.pixdim.tolist(), view_of(image))

    def summary(self, report: Mapping[str, Any]) -> str:
        """Say the figures that matter most."""
        words = [f"{name.upper()} {said(report[name])}" for name in ("ap50", "ap75", "ap")]
        at = report["at_threshold"]
        words.append(f"precision {said(at['precision'])}, recall {said(at['recall'])} at the thresholds")
        words.append(f"FROC {said(report['froc']['mean_sensitivity'])}")
        return ", ".join(words)

    def _matches(self, cases: Sequence[BoxCase]) -> Matches:
        return match_objects([case.truth() for case in cases], [case.predicted() for case in cases], len(self.classes))

    def _at_thresholds(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any]) -> dict[str, Any]:
        figures = self._matches([self._kept(case, decisions) for case in cases]).at(0.0)
        figures.pop("score_threshold")
        return figures

    def _matched_overlap(self, case: BoxCase) -> float:
        """Sum of the overlaps of pairs of one class, best score first; an object is matched once."""
        labels = case.truth()["labels"]
        if not len(labels) or not len(case.labels):
            return 0.0
        overlap = self.overlaps(case) * np.equal.outer(case.labels, labels)
        total = 0.0
        for index in np.argsort(-case.scores, kind="stable"):
            best = int(overlap[index].argmax())
            total += float(overlap[index, best])
            overlap[:, best] *= overlap[index, best] == 0
        return total

    def _image(self, case: BoxCase) -> MetaTensor:
        load = LoadScand("image", spatial_dims=len(case.size), frame=self.frame)
        return cast(MetaTensor, load({"image": case.image, "series_uid": case.series_uid})["image"])

    def _kept(self, case: BoxCase, decisions: Mapping[str, Any]) -> BoxCase:
        thresholds = np.array([decisions["score_thresholds"][name] for name in self.classes])
        kept = case.scores >= thresholds[case.labels]
        return replace(case, boxes=case.boxes[kept], labels=case.labels[kept], scores=case.scores[kept])


def box_case(item: Mapping[str, Any], output: Mapping[str, Tensor]) -> BoxCase:
    """Return what is known of one scan, with a detector's boxes brought from the image's grid to that of the file.

    Args:
        item: behind :class:`ScanObjectsd` and :class:`GridBoxesd`.
        output: ``boxes``, ``labels`` and ``scores`` on the image's grid.
    """
    found = {key: value.detach().float().cpu().numpy() for key, value in output.items() if key != "masks"}
    boxes = map_boxes(found["boxes"], np.linalg.inv(np.asarray(item["to_grid"])))
    boxes, kept = clip_boxes(boxes, item["scan_size"])
    path = item["image"].meta["filename_or_obj"]
    is_placed = format_by_name(path) != PICTURE
    return BoxCase(
        scan_id=item["scan_id"],
        image=str(path),
        size=list(item["scan_size"]),
        boxes=boxes,
        labels=found["labels"][kept].astype(np.int64),
        scores=found["scores"][kept].astype(np.float64),
        true_boxes=_array(item, "scan_boxes", np.float64),
        true_labels=_array(item, "scan_labels", np.int64),
        to_world=np.asarray(item["to_world"]) if is_placed else None,
        series_uid=item.get("series_uid"),
    )


def _array(item: Mapping[str, Any], key: str, dtype: Any) -> NDArray | None:
    return np.asarray(item[key], dtype=dtype) if key in item else None


def _of_class(matches: Matches, label: int) -> Matches:
    own = matches.label == label
    objects = matches.objects[:, [label]]
    return Matches(matches.scan[own], matches.label[own], matches.score[own], matches.hit[own], objects)


def said(value: float | None) -> str:
    """Write a figure for the log."""
    return "undefined" if value is None else f"{value:.3f}"
