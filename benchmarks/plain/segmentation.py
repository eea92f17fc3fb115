# SPDX-License-Identifier: Apache-2.0
"""Segmentation of volumes, written out with MONAI's transforms, losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks import one_hot
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    Resized,
    ScaleIntensityRangePercentilesd,
    SpatialPadd,
)
from monai.utils import set_determinism
from scipy import ndimage
from torch import Tensor

from benchmarks.plain.networks import VolumeSegmenter
from benchmarks.plain.training import first_of, train
from datasets import load_datalist

KEYS = ("image", "label")


def run(dataset: Path, options: Mapping[str, Any], workflow: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train and test; return ``test`` figures under the workflow's names.

    Args:
        dataset: folder of volumes with label maps whose codes are 1, 2, ... without gaps.
        options: of train.yaml, whose segmenter is `pyramid`.
        workflow: metrics.json of the workflow's run (its classes).
        seed: of everything.
    """
    set_determinism(seed)
    channels = len(workflow["classes"]) + 1
    network = VolumeSegmenter(channels, options["segmenter_options"]["channels"])
    datalist = load_datalist(str(dataset))
    listed = {split: _items(datalist, split) for split in ("train", "val", "test")}
    listed["train"] = first_of(listed["train"], options.get("train_scans"), seed)
    fixed, random = transforms(options["image_size"])
    sets = {split: CacheDataset(items, fixed, progress=False, num_workers=1) for split, items in listed.items()}
    training = CacheDataset(listed["train"], Compose([*fixed.transforms, *random.transforms]), progress=False)
    batches = DataLoader(
        training, batch_size=options["batch_size"], shuffle=True, drop_last=_one_left(training, options)
    )
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def loss_of(batch: Mapping[str, Tensor]) -> Tensor:
        return loss(network(batch["image"]), batch["label"])

    def validate() -> float:
        metric = DiceMetric(include_background=False)
        for batch in DataLoader(sets["val"], batch_size=options["batch_size"]):
            found = network(batch["image"]).argmax(dim=1, keepdim=True)
            metric(one_hot(found, channels), one_hot(batch["label"], channels))
        return float(metric.aggregate())

    fit = train(network, batches, loss_of, validate, options, weight_decay=0.01)
    return {"fit": fit, "test": {"dice": test(network, sets["test"], listed["test"], fixed, channels)}}


@torch.no_grad()
def test(network: Any, scans: Any, items: list[Mapping[str, Any]], fixed: Compose, channels: int) -> float:
    """Mean Dice over scans and classes, on the voxels of the files."""
    load = Compose(fixed.transforms[:3])
    back = Invertd("pred", fixed, orig_keys="image", nearest_interp=False, to_tensor=True)
    metric = DiceMetric(include_background=False, reduction="none")
    dice = []
    for item, scan in zip(items, scans, strict=True):
        probabilities = network(scan["image"].as_tensor()[None])[0].softmax(dim=0)
        stored = back({"image": scan["image"], "pred": MetaTensor(probabilities)})["pred"]
        whole = Orientationd("pred", "RAS")({"pred": stored})["pred"]
        truth = load(dict(item))["label"].as_tensor()
        found = whole.as_tensor().argmax(dim=0, keepdim=True)
        dice.append(metric(one_hot(found[None], channels), one_hot(truth[None], channels)))
    return float(torch.cat(dice).nanmean())


def _items(datalist: Any, split: str) -> list[Mapping[str, Any]]:
    items = [item for item in datalist.split(split) if item.get("mask")]
    return [{"image": item["image"], "label": item["mask"], "scan_id": item["scan_id"]} for item in items]


def _one_left(scans: Any, options: Mapping[str, Any]) -> bool:
    return len(scans) > options["batch_size"] and len(scans) % options["batch_size"] == 1


class FittingResized(Resized):
    """Resizes each scan by one factor for all axes, the largest at which it fits into ``spatial_size``."""

    def __init__(self, keys: Any, spatial_size: list[int], mode: Any) -> None:
        super().__init__(keys, spatial_size, mode=mode)
        self.box = spatial_size

    def __call__(self, data: Mapping[Any, Any], lazy: bool | None = None) -> dict[Any, Any]:
        """Return the data with all keys resized."""
        shape = data[self.keys[0]].shape[1:]
        factor = min(most / side for side, most in zip(shape, self.box, strict=True))
        self.resizer.spatial_size = tuple(round(side * factor) for side in shape)
        return super().__call__(data, lazy)


def transforms(size: list[int]) -> tuple[Compose, Compose]:
    """What is done to every scan, and what is done to training scans at random."""
    fixed = [
        LoadImaged(KEYS, image_only=True),
        EnsureChannelFirstd(KEYS),
        Orientationd(KEYS, "RAS"),
        ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True),
        CropForegroundd(KEYS, "image", body, margin=4, allow_smaller=True, start_coord_key=None, end_coord_key=None),
        FittingResized(KEYS, size, mode=("area", "nearest-exact")),
        SpatialPadd(KEYS, size),
    ]
    random = [
        EnsureTyped(KEYS, track_meta=False),
        RandFlipd(KEYS, prob=0.5, spatial_axis=0),
        RandAffined(
            KEYS,
            prob=0.8,
            rotate_range=[0.2] * 3,
            scale_range=[0.15] * 3,
            translate_range=[0.05 * side for side in size],
            padding_mode="zeros",
            mode=("bilinear", "nearest"),
            spatial_size=size,
        ),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandGaussianNoised("image", prob=0.3, std=0.03),
    ]
    return Compose(fixed), Compose(random)


def body(image: Tensor) -> Tensor:
    """Where there is more than air."""
    values = np.asarray(image)
    return torch.from_numpy(ndimage.uniform_filter(values.max(axis=0), 5, mode="nearest") > 0.05)[None]
