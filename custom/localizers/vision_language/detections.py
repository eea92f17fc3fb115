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
    """Paint detections: each box fills the pixels whose centre it holds, and at least one, with its probability.

    Where boxes overlap the highest holds; no box, a map of zeros. See :func:`as_probability` for the threshold.

    Args:
        boxes: ``[K, 4]`` left, top, right, bottom in pixels; pixel ``i`` reaches from ``i`` to ``i + 1``.
        scores: ``[K]`` in [0, 1].
        size: height and width of the picture.
        threshold: boxes with a lower score are dropped; a box at the threshold gets 0.5.
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
    probabilities = as_probability(scores[keep][order], threshold)
    for (left, top, right, bottom), probability in zip(inside[keep][order].tolist(), probabilities, strict=True):
        painted[_pixels(top, bottom, height), _pixels(left, right, width)] = probability
    return painted


def as_probability(scores: Tensor, threshold: float) -> Tensor:
    """Shift the odds of scores so that the threshold becomes 0.5: what a detector keeps counts as region everywhere.

    Detectors' scores are not calibrated: those that are worth keeping start far below 0.5, differently for each. Order,
    0 and 1 stay.

    Args:
        scores: in [0, 1].
        threshold: in [0, 1]; 0 and 1: scores are kept as they are.
    """
    if threshold in (0, 1):
        return scores
    for_it, against = scores * (1 - threshold), (1 - scores) * threshold
    shifted = for_it / (for_it + against)
    # A score at the threshold must not fall below one half by rounding.
    return torch.where(scores >= threshold, shifted.clamp(min=0.5), shifted)


def _pixels(low: float, high: float, size: int) -> slice:
    first = min(floor(low + 0.5), size - 1)
    return slice(first, max(floor(high + 0.5), first + 1))


def check_shares(**shares: float) -> None:
    """Raise ValueError if one of the named parameters is not in [0, 1]."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], received {value}.")
