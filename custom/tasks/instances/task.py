# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation as a task: detection, whose objects have masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from custom.metrics.boxes import Matches, detection_report, encode_masks, mask_iou, match_objects
from custom.tasks.detection.geometry import clip_boxes
from custom.tasks.detection.results import BoxCase
from custom.tasks.detection.task import DetectionTask, box_case, said
from custom.tasks.instances.masks import decode_masks, resampled
from custom.tasks.instances.results import InstanceCase, save_instances
from custom.tasks.labelled import groups_of
from custom.tasks.segmentation.geometry import ScanGrid
from custom.visual.instances import draw_outlines
from custom.visual.planes import view_of
from datasets.geometry import map_boxes, stored_to_memory

_SHARED = ("num_scans", "num_objects", "bootstrap")
_INSIDE = 0.5  # probability from which a voxel belongs to an object
_AT_ONCE = 16  # masks brought to the grid of the file together: a hundred of a large radiograph would fill the memory


@dataclass
class InstanceTask(DetectionTask):
    """Boxes with classes, scores and masks, in 2D; arguments as for :class:`DetectionTask`.

    Score thresholds, the figures at the thresholds and the scores of cases are about masks.
    """

    name = "instances"

    def case(self, item: Mapping[str, Any], output: Mapping[str, Tensor]) -> BoxCase:
        """Return what is known of one scan, see :func:`instance_case`."""
        return instance_case(item, output)

    def overlaps(self, case: BoxCase) -> NDArray[np.float64]:
        """Return the overlaps ``[M, N]`` of predicted with true masks."""
        return mask_iou(cast(InstanceCase, case).masks, case.truth()["masks"])

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
            groups=groups_of(cases, self.groups),
            resamples=self.resamples,
            seed=self.seed,
        )
        masks["at_threshold"] = boxes.pop("at_threshold")
        both = {key: boxes[key] for key in _SHARED if key in boxes}
        return {**both, "boxes": _without(boxes, _SHARED), "masks": _without(masks, _SHARED)}

    def save(self, cases: Sequence[BoxCase], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write boxes as :class:`DetectionTask` does, with masks in the COCO files, and label maps of what is kept.

        See :func:`custom.tasks.instances.results.save_instances`.
        """
        files = super().save(cases, decisions, folder)
        if not cases:
            return files
        kept = [self._kept(case, decisions) for case in cases]
        return files + save_instances(kept, self.classes, Path(folder))

    def draw(self, case: BoxCase, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan as `datasets.LoadScand` turns it, its true outlines and those above the thresholds."""
        kept = self._kept(case, decisions)
        image = self._image(case)
        truth = None if kept.true_masks is None else _turned(kept.true_masks, case, image)
        words = [f"{self.classes[label]} {score:.2f}" for label, score in zip(kept.labels, kept.scores, strict=True)]
        scan, found = np.asarray(image.as_tensor())[0], _turned(kept.masks, case, image)
        draw_outlines(axes, scan, truth, found, words, image.pixdim.tolist(), view_of(image))

    def summary(self, report: Mapping[str, Any]) -> str:
        """Say the figures that matter most."""
        words = [f"{kind} {_precisions(report[kind])}" for kind in ("masks", "boxes")]
        at = report["masks"]["at_threshold"]
        return ", ".join([*words, f"precision {said(at['precision'])}, recall {said(at['recall'])} at the thresholds"])

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
    return InstanceCase(**facts, masks=codes, true_masks=item.get("scan_masks"), grid=ScanGrid.of(item["image"]))


def _turned(codes: Sequence[dict[str, Any]], case: BoxCase, image: MetaTensor) -> np.ndarray:
    """Masks of the file on the grid of an image in memory, ``[N, X, Y]`` boolean."""
    masks = torch.from_numpy(decode_masks(codes, case.size))
    return resampled(masks, stored_to_memory(image), image.shape[1:]).numpy() >= _INSIDE


def _without(report: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in keys}


def _precisions(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.upper()} {said(report[name])}" for name in ("ap50", "ap75", "ap"))
