# SPDX-License-Identifier: Apache-2.0
"""Refiners that look at the map alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor


class MapRefiner(ABC):
    """A refiner by plain image analysis of each map, in 2D and 3D; the scan plays no part."""

    native_dims: tuple[int, ...] = (2, 3)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that determines a refined map besides the coarse map."""

    @abstractmethod
    def refine_map(self, values: np.ndarray) -> np.ndarray:
        """Refine one map ``[*spatial]``, float32 in [0, 1], with at least one value above 0."""

    def refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine maps ``[P, *spatial]``; see :class:`custom.localizers.base.Refiner`.

        Raises:
            ValueError: if the maps are not of the scan's size.
        """
        if image.shape[1:] != probabilities.shape[1:] or image.ndim - 1 not in self.native_dims:
            raise ValueError(
                f"Maps {tuple(probabilities.shape)} do not fit the scan {tuple(image.shape)}, which must have "
                f"{' or '.join(map(str, self.native_dims))} spatial dimensions."
            )
        plain = probabilities.as_tensor() if isinstance(probabilities, MetaTensor) else probabilities
        maps = plain.detach().cpu().float().numpy()
        refined = [self.refine_map(each) if each.any() else each for each in maps]
        return torch.from_numpy(np.stack(refined).astype(np.float32)) if refined else torch.from_numpy(maps)


def components(values: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """Number the connected parts of a map above a threshold, neighbours across corners included.

    Args:
        values: ``[*spatial]``.
        threshold: voxels must exceed it.

    Returns:
        Labels ``[*spatial]`` from 1, 0 outside, and how many there are.
    """
    found: tuple[np.ndarray, int] = ndimage.label(values > threshold, structure=np.ones((3,) * values.ndim))
    return found


def check_threshold(threshold: float) -> float:
    """Return a threshold; raise ValueError unless it is in [0, 1)."""
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is a probability in [0, 1), received {threshold}.")
    return threshold
