# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation of pictures, written out with torchvision's Mask R-CNN and pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import set_determinism
from torch import Tensor, nn

from benchmarks.plain.networks import mask_rcnn
from benchmarks.plain.pictures import Picture, augment, average_precision, read_pictures, silent_coco
from benchmarks.plain.training import Batches, first_of, train


def run(dataset: Path, options: Mapping[str, Any], workflow: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train and test; return ``test`` figures under the workflow's names; arguments as for detection."""
    set_determinism(seed)
    side = options["image_size"][0]
    detector = mask_rcnn(len(workflow["classes"]), workflow["anchors"], side)
    few = partial(first_of, count=options["train_scans"], seed=seed)
    training = read_pictures(dataset, "train", side, few)
    scans = {split: read_pictures(dataset, split, side) for split in ("val", "test")}
    truth = {split: silent_coco(dataset / f"coco_{split}.json") for split in scans}

    def loss_of(batch: list[Picture]) -> Tensor:
        targets = [{"boxes": each.boxes, "labels": each.labels + 1, "masks": each.masks} for each in batch]
        losses = detector([each.image for each in batch], targets)
        return torch.stack(list(losses.values())).sum()

    def validate() -> float:
        boxes, _ = predict(detector, scans["val"], options["batch_size"], with_masks=False)
        return average_precision(truth["val"], boxes)["ap50"]

    batches = Batches(training, augment, options["batch_size"])
    fit = train(detector, batches, loss_of, validate, options, weight_decay=0.05, clip_norm=5.0)
    boxes, masks = predict(detector, scans["test"], options["batch_size"])
    figures = {
        "boxes": average_precision(truth["test"], boxes),
        "masks": average_precision(truth["test"], masks, "segm"),
    }
    return {"fit": fit, "test": figures}


@torch.no_grad()
def predict(
    detector: nn.Module, scans: Sequence[Picture], size: int, with_masks: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes and masks in the form of COCO's results."""
    from pycocotools import mask as coding

    boxes: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for start in range(0, len(scans), size):
        batch = scans[start : start + size]
        for scan, found in zip(batch, detector([each.image for each in batch]), strict=True):
            shared = [
                {"image_id": scan.number, "category_id": int(label), "score": float(score)}
                for label, score in zip(found["labels"], found["scores"], strict=True)
            ]
            for facts, box in zip(shared, scan.file_boxes(found["boxes"]), strict=True):
                boxes.append({**facts, "bbox": box.tolist()})
            if with_masks and shared:
                for facts, mask in zip(shared, scan.file_masks(found["masks"][:, 0]), strict=True):
                    masks.append({**facts, "segmentation": coding.encode(np.asfortranarray(mask))})
    return boxes, masks
