# SPDX-License-Identifier: Apache-2.0
"""From boxes with scores, as detectors give them, to soft maps."""

from __future__ import annotations

from math import floor

import torch
from torch import Tensor


def corners(boxes: Tensor) -> Tensor:
    """From ``[..., (centre x, centre y, width, height)]`` to ``[..., (left, top, right, bottom)]``."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def paint(boxes: Tensor, scores: Tensor, size: tuple[int, int], threshold: float, max_area: float = 1.0) -> Tensor:
    """Paint detections: each box fills the pixels whose centre it holds, and at least one, with its score.

    Where boxes overlap the highest score holds. Scores are kept as they are: no box, a map of zeros.

    Args:
        boxes: ``[K, 4]`` left, top, right, bottom in pixels; pixel ``i`` reaches from ``i`` to ``i + 1``.
        scores: ``[K]`` in [0, 1].
        size: height and width of the picture.
        threshold: boxes with a lower score are dropped.
        max_area: boxes that cover a larger share of the picture are dropped: they do not say where.

    Returns:
        ``[*size]`` float32 in [0, 1], on the CPU.
    """
    height, width = size
    painted = torch.zeros(size)
    limits = torch.tensor([width, height, width, height])
    inside = boxes.detach().float().cpu().clamp(min=torch.zeros(4), max=limits)
    scores = scores.detach().float().cpu()
    sides = inside[:, 2:] - inside[:, :2]
    keep = (scores >= threshold) & (sides > 0).all(dim=1) & (sides.prod(dim=1) <= max_area * height * width)
    order = scores[keep].argsort()  # the highest comes last, and on top
    for (left, top, right, bottom), score in zip(inside[keep][order].tolist(), scores[keep][order], strict=True):
        painted[_pixels(top, bottom, height), _pixels(left, right, width)] = score
    return painted


def _pixels(low: float, high: float, size: int) -> slice:
    first = min(floor(low + 0.5), size - 1)
    return slice(first, max(floor(high + 0.5), first + 1))


def check_shares(**shares: float) -> None:
    """Raise ValueError if one of the named parameters is not in [0, 1]."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], received {value}.")
