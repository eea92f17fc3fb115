# SPDX-License-Identifier: Apache-2.0
"""The glue between MONAI's engines and detectors, whose scans have any number of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.engines import PrepareBatch
from torch import Tensor, nn

from custom.metrics.boxes import coco_figures, match_objects

KEY_SCORES = ("ap50", "ap75", "ap")


def keep_apart(batch: Sequence[Any]) -> list[dict[str, Any]]:
    """Collate scans, or lists of patches, into one list: they have different numbers of objects."""
    return [item for entry in batch for item in (entry if isinstance(entry, list) else [entry])]


def plain_image(item: Mapping[str, Any], device: torch.device | str | None, **kwargs: Any) -> Tensor:
    """Return the image of a scan as a tensor without metadata on a device."""
    image = item["image"]
    return (image.as_tensor() if isinstance(image, MetaTensor) else image).to(device, **kwargs)


class DetectionPrepareBatch(PrepareBatch):
    """Turn a list of scans into images and targets for a detector: ``boxes``, ``labels`` and, if they come, ``masks``.

    ``masks`` ``[N, *spatial]`` of all objects of a scan are narrowed to those that are left on the image.
    """

    def __call__(
        self,
        batchdata: Any,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[list[Tensor], list[dict[str, Tensor]], tuple[list[dict[str, Tensor]]], dict[str, Any]]:
        """Return images, targets, and the targets again as the argument that the detector learns from.

        Args:
            batchdata: scans, see :func:`keep_apart`.
            device: where the tensors go.
            non_blocking: whether to wait for them.
            kwargs: for ``Tensor.to``.
        """
        images = [plain_image(item, device, non_blocking=non_blocking, **kwargs) for item in batchdata]
        targets = [_target(item, device, non_blocking) for item in batchdata]
        return images, targets, (targets,), {}


class DetectionLoss(nn.Module):
    """Sum of the losses that a detector returns in training mode."""

    def forward(self, losses: Mapping[str, Tensor], targets: Any = None) -> Tensor:
        """Return a scalar; the targets were used by the detector itself."""
        return torch.stack([loss.float() for loss in losses.values()]).sum()


class BoxScore(Metric):
    """Average precision of predicted boxes over an epoch, on the grid of the network; 0 where it is undefined.

    Args:
        name: "ap50", "ap75" (at one intersection over union) or "ap" (mean from 0.5 to 0.95).
        classes: names of the classes.

    Raises:
        ValueError: for another name.
    """

    def __init__(self, name: str, classes: Sequence[str]) -> None:
        if name not in KEY_SCORES:
            raise ValueError(f"key_score must be one of {', '.join(KEY_SCORES)}, got {name!r}.")
        self.name, self.classes = name, list(classes)
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        """Forget everything."""
        self.truths: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []

    def update(self, output: tuple[Sequence[Mapping[str, Tensor]], Sequence[Mapping[str, Tensor]]]) -> None:
        """Add the predictions and the truth of a batch."""
        predictions, truths = output
        self.predictions += [as_arrays(each, ("boxes", "labels", "scores")) for each in predictions]
        self.truths += [as_arrays(each, ("boxes", "labels")) for each in truths]

    def compute(self) -> float:
        """Return the figure."""
        if self.name == "ap":
            figure = coco_figures(self.truths, self.predictions, self.classes)["ap"]
        else:
            iou = int(self.name[2:]) / 100
            figure = match_objects(self.truths, self.predictions, len(self.classes), iou=iou).average_precision()
        return float(figure or 0.0)


def as_arrays(objects: Mapping[str, Tensor], keys: Sequence[str]) -> dict[str, Any]:
    """Return some entries of a detector's output or target as numpy arrays."""
    return {key: objects[key].detach().cpu().numpy() for key in keys}


def _target(item: Mapping[str, Any], device: str | torch.device | None, non_blocking: bool) -> dict[str, Tensor]:
    target = {key: torch.as_tensor(item[key]) for key in ("boxes", "labels")}
    if "masks" in item:
        target["masks"] = item["masks"][item["box_index"]]
    return {key: value.to(device, non_blocking=non_blocking) for key, value in target.items()}
