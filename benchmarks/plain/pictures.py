# SPDX-License-Identifier: Apache-2.0
"""Pictures with boxes and outlines out of COCO files, brought to one size by hand, and back."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from datasets import load_datalist

MARGIN = 4


@dataclass
class Picture:
    """A picture on the network's grid: what the file shows from ``corner`` on, times ``scale``, moved by ``pad``.

    Attributes:
        number: in the COCO file.
        image: ``[1, S, S]``, 0 to 1.
        boxes: ``[N, 4]``, columns and rows.
        labels: ``[N]``, from 0.
        masks: ``[N, S, S]``.
        corner, scale, pad: columns and rows.
        inner: columns and rows of the file's part on the grid.
        size: columns and rows of the file.
        part: columns and rows of the part of the file.
    """

    number: int
    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    corner: np.ndarray
    scale: np.ndarray
    pad: np.ndarray
    inner: tuple[int, int]
    part: tuple[int, int]
    size: tuple[int, int]

    def file_boxes(self, boxes: Tensor) -> np.ndarray:
        """Boxes of the grid as COCO's x, y, width, height of the file."""
        values = boxes.double().numpy().reshape(-1, 2, 2)
        values = (values - self.pad) / self.scale + self.corner
        values = values.clip(0, np.array(self.size))
        return np.concatenate([values[:, 0], values[:, 1] - values[:, 0]], axis=1)

    def file_masks(self, masks: Tensor) -> np.ndarray:
        """Probabilities ``[N, S, S]`` of the grid as masks of the file, uint8 ``[N, rows, columns]``."""
        (left, top), (width, height), (columns, rows) = self.pad.tolist(), self.inner, self.part
        shown = masks[:, top : top + height, left : left + width]
        resized = functional.interpolate(shown[:, None], (rows, columns), mode="bilinear")[:, 0]
        whole = np.zeros((len(masks), self.size[1], self.size[0]), dtype=np.uint8)
        x, y = self.corner.tolist()
        whole[:, y : y + rows, x : x + columns] = (resized >= 0.5).numpy()
        return whole


def silent_coco(path: Path) -> Any:
    """A COCO file, read without a word."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_pictures(
    dataset: Path, split: str, side: int, chosen: Callable[[list[Any]], list[Any]] = list
) -> list[Picture]:
    """Read the pictures of a split that have boxes.

    Args:
        dataset: a folder with a manifest and ``coco_<split>.json``.
        split: train, val or test.
        side: of the grid.
        chosen: which of the listed scans.
    """
    coco = silent_coco(dataset / f"coco_{split}.json")
    numbers = {Path(each["file_name"]).name: each["id"] for each in coco.dataset["images"]}
    items = chosen([item for item in load_datalist(str(dataset)).split(split) if item.get("boxes") is not None])
    return [read_picture(coco, numbers[Path(item["image"]).name], Path(item["image"]), side) for item in items]


def read_picture(coco: Any, number: int, file: Path, side: int) -> Picture:
    """Read one: intensities by percentiles, air cut away, longest side to ``side``, the rest zeros."""
    values = np.asarray(Image.open(file).convert("L"), dtype=np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    values = ((values - low) / max(high - low, 1e-6)).clip(0, 1)
    rows, columns = _around(values)
    part = torch.from_numpy(values[rows, columns].copy())[None]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
    masks = np.stack([coco.annToMask(each)[rows, columns] for each in annotations]) if annotations else None
    height, width = part.shape[1:]
    factor = side / max(height, width)
    new = [round(width * factor), round(height * factor)]
    pad = np.array([(side - each) // 2 for each in new])
    corner, scale = np.array([columns.start, rows.start]), np.array(new) / np.array([width, height])
    boxes = np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 2, 2)
    boxes[:, 1] += boxes[:, 0]
    boxes = (boxes - corner) * scale + pad
    shown = torch.zeros(0, height, width) if masks is None else torch.from_numpy(masks.astype(np.float32))
    return Picture(
        number=number,
        image=_onto_grid(part, new, pad, side),
        boxes=torch.from_numpy(boxes.reshape(-1, 4)).float(),
        labels=torch.tensor([each["category_id"] - 1 for each in annotations], dtype=torch.int64),
        masks=(_onto_grid(shown, new, pad, side) >= 0.5).to(torch.uint8),
        corner=corner,
        scale=scale,
        pad=pad,
        inner=(new[0], new[1]),
        part=(width, height),
        size=(values.shape[1], values.shape[0]),
    )


def augment(picture: Picture) -> Picture:
    """A training example: flipped, turned, zoomed and moved with its boxes and masks; other contrast, noise."""
    from dataclasses import replace

    from torchvision import tv_tensors
    from torchvision.transforms import v2

    side = picture.image.shape[-1]
    move = v2.RandomAffine(
        math.degrees(0.2), translate=(0.05, 0.05), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR
    )
    change = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomApply([move], 0.8)])
    image, boxes, masks = change(
        tv_tensors.Image(picture.image),
        tv_tensors.BoundingBoxes(picture.boxes, format="XYXY", canvas_size=(side, side)),
        tv_tensors.Mask(picture.masks),
    )
    image = torch.as_tensor(image).clamp(0, 1)
    if torch.rand(()) < 0.3:
        image = image ** float(torch.empty(()).uniform_(0.7, 1.5))
    if torch.rand(()) < 0.3:
        image = image + torch.randn_like(image) * 0.03 * torch.rand(())
    boxes = torch.as_tensor(boxes).clamp(0, side)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return replace(
        picture, image=image, boxes=boxes[kept], labels=picture.labels[kept], masks=torch.as_tensor(masks)[kept]
    )


def average_precision(coco: Any, found: Sequence[Mapping[str, Any]], kind: str = "bbox") -> dict[str, float]:
    """COCO's average precision of boxes ("bbox") or masks ("segm"): ``ap``, ``ap50`` and ``ap75``."""
    from pycocotools.cocoeval import COCOeval

    if not found:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(list(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, evaluation.stats[:3]), strict=True))


def _around(values: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is more than air, with a margin."""
    inside = ndimage.uniform_filter(values, 5, mode="nearest") > 0.05
    slices = []
    for axis, side in enumerate(values.shape):
        (known,) = np.nonzero(inside.any(axis=1 - axis))
        slices.append(
            slice(max(known[0] - MARGIN, 0), min(known[-1] + 1 + MARGIN, side)) if len(known) else slice(0, side)
        )
    return slices[0], slices[1]


def _onto_grid(values: Tensor, new: list[int], pad: np.ndarray, side: int) -> Tensor:
    grid = torch.zeros(len(values), side, side)
    if len(values):
        left, top = pad.tolist()
        resized = functional.interpolate(values[None], (new[1], new[0]), mode="area")[0]
        grid[:, top : top + new[1], left : left + new[0]] = resized
    return grid
