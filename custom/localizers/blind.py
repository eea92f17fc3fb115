# SPDX-License-Identifier: Apache-2.0
"""Localizers that see no prompt: controls for everything that a prompt is said to do."""

from __future__ import annotations

from collections.abc import Sequence
from math import gamma, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.localizers.base import spatial_values
from custom.localizers.operators import Scan
from custom.localizers.operators.body import body


class CentredDisc:
    """An ellipse (ellipsoid) in the middle of the picture, whatever scan and prompt.

    Args:
        area: its share of the picture, in (0, 0.7].
    """

    native_dims: tuple[int, ...] = (2, 3)

    def __init__(self, area: float = 0.15) -> None:
        if not 0 < area <= 0.7:
            raise ValueError(f"area is a share of the picture in (0, 0.7], received {area}.")
        self.area = area

    def describe(self) -> dict[str, Any]:
        """Return name, version and area."""
        return {"name": "centred_disc", "version": 1, "area": self.area}

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the same map for every prompt; see :class:`custom.localizers.base.Localizer`."""
        shape = spatial_values(image, self.native_dims).shape
        inside = _squared_radius(tuple(shape)) <= self._radius(len(shape)) ** 2
        return torch.from_numpy(inside.astype(np.float32)).expand(len(prompts), *shape).clone()

    def _radius(self, dims: int) -> float:
        """Radius, in units of the picture's sides, that gives the ellipsoid its share."""
        unit_ball = pi ** (dims / 2) / gamma(dims / 2 + 1)
        return float((self.area / unit_ball) ** (1 / dims))


class BodyOnly:
    """The body, whatever the prompt."""

    native_dims: tuple[int, ...] = (2, 3)

    def describe(self) -> dict[str, Any]:
        """Return name and version."""
        return {"name": "body_only", "version": 1}

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the same map for every prompt; see :class:`custom.localizers.base.Localizer`."""
        values = spatial_values(image, self.native_dims).cpu().numpy()
        found = body(Scan(values, "mri", "left")) if np.ptp(values) > 0 else np.zeros_like(values)
        return torch.from_numpy(found).expand(len(prompts), *values.shape).clone()


def _squared_radius(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    parts = [((axis - (size - 1) / 2) / size) ** 2 for axis, size in zip(axes, shape, strict=True)]
    return sum(parts[1:], start=parts[0])
