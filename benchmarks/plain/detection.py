# SPDX-License-Identifier: Apache-2.0
"""Detection in pictures, written out with MONAI's RetinaNet and pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from torch import Tensor

from benchmarks.plain.networks import retinanet
from benchmarks.plain.pictures import Picture, augment, average_precision, read_pictures, silent_coco
from benchmarks.plain.training import Batches, first_of, train


def run(dataset: Path, options: Mapping[str, Any], workflow: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train and test; return ``test`` figures under the workflow's names.

    Args:
        dataset: folder of pictures with ``coco_<split>.json``.
        options: of detect.yaml.
        workflow: metrics.json of the workflow's run (its classes and anchors).
        seed: of everything.
    """
    set_determinism(seed)
    detector = retinanet(len(workflow["classes"]), workflow["anchors"])
    side = options["image_size"][0]
    few = partial(first_of, count=options["train_scans"], seed=seed)
    training = read_pictures(dataset, "train", side, few)
    scans = {split: read_pictures(dataset, split, side) for split in ("val", "test")}
    truth = {split: silent_coco(dataset / f"coco_{split}.json") for split in scans}

    def loss_of(batch: list[Picture]) -> Tensor:
        targets = [{"boxes": each.boxes, "labels": each.labels} for each in batch]
        losses = detector(images(batch), targets)
        return torch.stack([loss for loss in losses.values() if loss.requires_grad]).sum()

    def measure(split: str) -> dict[str, float]:
        return average_precision(truth[split], predict(detector, scans[split], options["batch_size"]))

    batches = Batches(training, augment, options["batch_size"])
    fit = train(detector, batches, loss_of, lambda: measure("val")["ap50"], options, weight_decay=0.05, clip_norm=5.0)
    return {"fit": fit, "test": measure("test")}


def images(batch: Sequence[Picture]) -> Tensor:
    """``[B, 1, columns, rows]``: MONAI counts a box's coordinates in the order of the image's axes."""
    return torch.stack([each.image.transpose(1, 2) for each in batch])


@torch.no_grad()
def predict(detector: Any, scans: Sequence[Picture], size: int) -> list[dict[str, Any]]:
    """Boxes in the form of COCO's results."""
    results = []
    for start in range(0, len(scans), size):
        batch = scans[start : start + size]
        for scan, found in zip(batch, detector(images(batch)), strict=True):
            boxes = scan.file_boxes(found["boxes"])
            for box, label, score in zip(boxes, found["labels"], found["labels_scores"], strict=True):
                facts = {"image_id": scan.number, "category_id": int(label) + 1, "score": float(score)}
                results.append({**facts, "bbox": box.tolist()})
    return results
