# SPDX-License-Identifier: Apache-2.0
"""A picture with one bright block, and where it is: what stand-ins of models "find"."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = (slice(48, 60), slice(8, 24))  # x, y: at the right, near the top


def scan_with_block() -> tuple[Tensor, Tensor]:
    """A wide scan `[1, X, Y]`, and the block as a mask `[X, Y]`."""
    truth = torch.zeros(80, 40)
    truth[BLOCK] = 1
    return truth[None] * 9 + 1, truth


def bright(pixels: Tensor) -> Tensor:
    """Where prepared pictures `[N, 3, h, w]` are bright: bool `[N, h, w]`."""
    grey = pixels.mean(dim=1)
    return grey > (grey.amax(dim=(1, 2), keepdim=True) + grey.amin(dim=(1, 2), keepdim=True)) / 2


def box_of_bright(pixels: Tensor) -> Tensor:
    """The box around what is bright in each picture: `[N, 4]` left, top, right, bottom as shares of the sides."""
    boxes = []
    for mask in bright(pixels):
        rows, columns = torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        boxes.append(box / torch.tensor([mask.shape[1], mask.shape[0]] * 2))
    return torch.stack(boxes)


def centre_form(boxes: Tensor) -> Tensor:
    """From left, top, right, bottom to centre, width and height."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def overlap(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of a map cut at 0.5 and a mask."""
    found, truth = found >= 0.5, truth > 0
    return float((found & truth).sum() / (found | truth).sum())
