# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation as a task: detection, whose objects have masks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from monai.data import MetaTensor
from torch import Tensor, nn
from tqdm import tqdm

from custom.metrics.boxes import Matches, detection_report, encode_masks, mask_iou, match_objects
from custom.tasks.detection.geometry import clip_boxes, map_boxes
from custom.tasks.detection.results import BoxCase
from custom.tasks.detection.task import DetectionTask, box_case
from custom.tasks.detection.training import plain_image
from custom.tasks.instances.masks import decode_masks, resampled
from custom.tasks.instances.results import InstanceCase, add_segmentations, save_instances
from custom.tasks.segmentation.geometry import ScanGrid
from custom.visual.instances import draw_outlines
from datasets import LoadScand
from datasets.geometry import stored_to_memory

_SHARED = ("num_scans", "num_objects", "bootstrap")
_INSIDE = 0.5  # probability from which a voxel belongs to an object
_AT_ONCE = 16  # masks brought to the grid of the file together: a hundred of a large radiograph would fill the memory


@dataclass
class InstanceTask(DetectionTask):
    """Boxes with classes, scores and masks, in 2D; arguments as for :class:`DetectionTask`.

    Score thresholds, the figures at the thresholds and the scores of cases are about masks.
    """

    name = "instances"

    def predict(self, network: nn.Module, loader: Iterable, progress: str) -> list[BoxCase]:
        """Return the boxes and masks of every scan on the grid of its file.

        Args:
            network: a detector with masks, in evaluation mode.
            loader: lists of scans as for :class:`DetectionTask`, with ``scan_masks`` where they are known.
            progress: words beside the progress bar.
        """
        cases: list[BoxCase] = []
        for batch in tqdm(loader, desc=progress, leave=False):
            images = [plain_image(item, self.device) for item in batch]
            with torch.autocast(torch.device(self.device).type, enabled=self.amp):
                outputs = network(images)
            cases += [instance_case(item, output) for item, output in zip(batch, outputs, strict=True)]
        return cases

    def report(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``boxes``: what :class:`DetectionTask` reports; ``masks``: the same of masks, without FROC and sizes.

        ``num_scans``, ``num_objects`` and ``bootstrap`` are those of both.
        """
        boxes = super().report(cases, decisions)
        masks = detection_report(
            [case.truth() for case in cases],
            [case.predicted() for case in cases],
            self.classes,
            "masks",
            groups=None if self.groups is None else [self.groups[case.scan_id] for case in cases],
            resamples=self.resamples,
            seed=self.seed,
        )
        masks["at_threshold"] = boxes.pop("at_threshold")
        both = {key: boxes[key] for key in _SHARED if key in boxes}
        return {**both, "boxes": _without(boxes, _SHARED), "masks": _without(masks, _SHARED)}

    def scores(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any]) -> dict[str, float]:
        """Return for each scan with objects or detections twice the overlaps of matched pairs over all masks."""
        found = {}
        for case in cases:
            kept = self._kept(case, decisions)
            count = len(case.truth()["labels"]) + len(kept.labels)
            if count:
                found[case.scan_id] = 2 * _matched_overlap(kept) / count
        return found

    def save(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write boxes as :class:`DetectionTask` does, with masks in the COCO files, and label maps of what is kept.

        See :func:`custom.tasks.instances.results.save_instances`.
        """
        files = super().save(cases, decisions, folder)
        if not cases:
            return files
        add_segmentations(cast(Sequence[InstanceCase], cases), Path(folder))
        kept = [self._kept(case, decisions) for case in cases]
        grids = [ScanGrid.of(self._image(case)) for case in cases]
        return files + save_instances(kept, grids, self.classes, Path(folder))

    def draw(self, case: BoxCase, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan as `datasets.LoadScand` turns it, its true outlines and those above the thresholds."""
        kept = self._kept(case, decisions)
        image = self._image(case)
        truth = None if kept.true_masks is None else _turned(kept.true_masks, case, image)
        words = [f"{self.classes[label]} {score:.2f}" for label, score in zip(kept.labels, kept.scores, strict=True)]
        scan, found = np.asarray(image.as_tensor())[0], _turned(kept.masks, case, image)
        draw_outlines(axes, scan, truth, found, words, image.pixdim.tolist())

    def summary(self, report: Mapping[str, Any]) -> str:
        """Say the figures that matter most."""
        words = [f"{kind} {_precisions(report[kind])}" for kind in ("masks", "boxes")]
        at = report["masks"]["at_threshold"]
        return ", ".join(
            [*words, f"precision {_said(at['precision'])}, recall {_said(at['recall'])} at the thresholds"]
        )

    def _image(self, case: BoxCase) -> MetaTensor:
        load = LoadScand("image", spatial_dims=2, frame=self.frame)
        data: dict[Hashable, Any] = {"image": case.image}
        if case.series_uid is not None:
            data["series_uid"] = case.series_uid
        return cast(MetaTensor, load(data)["image"])

    def _matches(self, cases: Sequence[BoxCase]) -> Matches:
        truths, predictions = [case.truth() for case in cases], [case.predicted() for case in cases]
        return match_objects(truths, predictions, len(self.classes), "masks")

    def _kept(self, case: BoxCase, decisions: Mapping[str, Any]) -> InstanceCase:
        kept = cast(InstanceCase, super()._kept(case, decisions))
        thresholds = np.array([decisions["score_thresholds"][name] for name in self.classes])
        chosen = np.flatnonzero(case.scores >= thresholds[case.labels]).tolist()
        return replace(kept, masks=[kept.masks[index] for index in chosen])


def instance_case(item: Mapping[str, Any], output: Mapping[str, Tensor]) -> InstanceCase:
    """Return what is known of one scan, with a detector's boxes and masks brought to the grid of the file.

    Args:
        item: behind ``ScanMasksd``, ``ScanObjectsd`` and ``GridBoxesd``.
        output: ``boxes``, ``labels``, ``scores`` and ``masks`` (probabilities ``[M, X, Y]``) on the image's grid.
    """
    case = box_case(item, output)
    to_file = np.linalg.inv(np.asarray(item["to_grid"]))
    boxes = map_boxes(output["boxes"].detach().float().cpu().numpy(), to_file)
    _, kept = clip_boxes(boxes, case.size)  # as box_case does
    codes = []
    for some in output["masks"].detach().cpu()[kept].split(_AT_ONCE):
        codes += encode_masks((resampled(some, to_file, case.size) >= _INSIDE).numpy())
    facts = {field.name: getattr(case, field.name) for field in fields(case)}
    return InstanceCase(**facts, masks=codes, true_masks=item.get("scan_masks"))


def _turned(codes: Sequence[dict[str, Any]], case: BoxCase, image: MetaTensor) -> np.ndarray:
    """Masks of the file on the grid of an image in memory, ``[N, X, Y]`` boolean."""
    masks = torch.from_numpy(decode_masks(codes, case.size))
    return resampled(masks, stored_to_memory(image), image.shape[1:]).numpy() >= _INSIDE


def _matched_overlap(case: InstanceCase) -> float:
    """Sum of the overlaps of pairs of one class, best score first; an object is matched once."""
    truth = case.truth()
    if not len(truth["labels"]) or not len(case.labels):
        return 0.0
    overlap = mask_iou(case.masks, truth["masks"]) * np.equal.outer(case.labels, truth["labels"])
    total = 0.0
    for index in np.argsort(-case.scores, kind="stable"):
        best = int(overlap[index].argmax())
        total += float(overlap[index, best])
        overlap[:, best] *= overlap[index, best] == 0
    return total


def _without(report: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in keys}


def _precisions(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.upper()} {_said(report[name])}" for name in ("ap50", "ap75", "ap"))


def _said(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
