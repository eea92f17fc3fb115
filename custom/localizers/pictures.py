# SPDX-License-Identifier: Apache-2.0
"""Models of ordinary pictures on scans: grey values to upright RGB and back, 2D scans and slices alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.localizers.base import spatial_values

PERCENTILES = (0.5, 99.5)


class PictureLocalizer(ABC):
    """A localizer made from a model of RGB pictures.

    Subclasses look at batches of pictures; :class:`custom.localizers.volumes.Slicewise` hands them slices of volumes.
    A scan's 0.5th and 99.5th percentile become black and white.
    """

    native_dims: tuple[int, ...] = (2,)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that determines a map besides scan and prompt; see :class:`Localizer`."""

    @abstractmethod
    def localize_pictures(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names in each picture.

        Args:
            pictures: upright ``[N, 3, H, W]`` float32 in [0, 1].
            prompts: ``P`` phrases.

        Returns:
            Probabilities ``[N, P, H, W]``, float32 in [0, 1], on the pictures' device.
        """

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names in a 2D scan; see :class:`custom.localizers.base.Localizer`."""
        picture = as_picture(scaled(image, self.native_dims))
        return from_picture(self.localize_pictures(picture[None], prompts)[0].float().cpu())


class PictureRefiner(ABC):
    """A refiner made from a model of RGB pictures; see :class:`PictureLocalizer`."""

    native_dims: tuple[int, ...] = (2,)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that determines a refined map besides scan and coarse map."""

    @abstractmethod
    def refine_pictures(self, pictures: Tensor, probabilities: Tensor) -> Tensor:
        """Refine the maps of each picture.

        Args:
            pictures: upright ``[N, 3, H, W]`` float32 in [0, 1].
            probabilities: ``[N, P, H, W]`` in [0, 1].

        Returns:
            ``[N, P, H, W]``, float32 in [0, 1]; zero where ``probabilities`` is zero everywhere.
        """

    def refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine the maps of a 2D scan; see :class:`custom.localizers.base.Refiner`."""
        picture = as_picture(scaled(image, self.native_dims))
        maps = from_picture(probabilities.float())  # the transposition is its own inverse
        return from_picture(self.refine_pictures(picture[None], maps[None])[0].float().cpu())


def scaled(image: Tensor, native_dims: Sequence[int]) -> Tensor:
    """Scale a scan for the eye.

    Args:
        image: ``[C, *spatial]``; three channels are taken for colour, other numbers are averaged.
        native_dims: accepted numbers of spatial dimensions.

    Returns:
        Plain float32 tensor ``[3, *spatial]`` in [0, 1]; zero if the scan is constant.

    Raises:
        ValueError: if it has another number of dimensions, no voxel, or values that are not finite.
    """
    grey = spatial_values(image, native_dims)
    values = image.detach().float() if image.shape[0] == 3 else grey[None]
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    # numpy, because torch.quantile refuses volumes of more than 16 million voxels
    low, high = np.percentile(values.cpu().numpy(), PERCENTILES)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    unit = ((values - float(low)) / float(high - low)).clamp(0, 1) if high > low else torch.zeros_like(values)
    return unit.expand(3, *unit.shape[1:])  # grey is kept once: a volume in colour would be three times as large


def as_picture(values: Tensor) -> Tensor:
    """From ``[..., X, Y]``, as scans are kept, to ``[..., H, W]``, upright as pictures are."""
    return values.transpose(-2, -1).contiguous()


def from_picture(values: Tensor) -> Tensor:
    """From ``[..., H, W]`` to ``[..., X, Y]``; the inverse of :func:`as_picture`."""
    return values.transpose(-2, -1).contiguous()


def default_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for; None: the GPU if there is one."""
    return torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
