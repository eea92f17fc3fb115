# SPDX-License-Identifier: Apache-2.0
"""Models of ordinary pictures on scans: grey values to upright RGB and back, 2D scans and slices alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.localizers.base import PromptedRefiner, spatial_values
from custom.localizers.windows import PERCENTILES, Limits, PictureWindow


class PictureLocalizer(ABC):
    """A localizer made from a model of RGB pictures.

    Subclasses look at batches of pictures; :class:`custom.localizers.volumes.Slicewise` hands them slices of volumes.

    - ``window``: how grey values become those of pictures; unless a subclass sets another, a scan's 0.5th and 99.5th
      percentile become black and white.
    """

    native_dims: tuple[int, ...] = (2,)
    window: PictureWindow = PictureWindow()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that determines a map besides scan and prompt, the window too; see :class:`Localizer`."""

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

        def look(values: Tensor, chosen: Sequence[int]) -> Tensor:
            found = self.localize_pictures(as_picture(values)[None], [prompts[index] for index in chosen])
            return from_picture(found[0].float().cpu())

        return in_windows(self.window, image, self.native_dims, prompts, look)


class PictureRefiner(PromptedRefiner):
    """A refiner made from a model of RGB pictures; see :class:`PictureLocalizer`."""

    native_dims: tuple[int, ...] = (2,)
    window: PictureWindow = PictureWindow()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that determines a refined map besides scan and coarse map, the window too."""

    @abstractmethod
    def refine_pictures(self, pictures: Tensor, probabilities: Tensor) -> Tensor:
        """Refine the maps of each picture.

        Args:
            pictures: upright ``[N, 3, H, W]`` float32 in [0, 1].
            probabilities: ``[N, P, H, W]`` in [0, 1].

        Returns:
            ``[N, P, H, W]``, float32 in [0, 1]; zero where ``probabilities`` is zero everywhere.
        """

    def refine(self, image: Tensor, probabilities: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Refine the maps of a 2D scan; see :class:`custom.localizers.base.PromptedRefiner`."""

        def look(values: Tensor, chosen: Sequence[int]) -> Tensor:
            maps = from_picture(probabilities[list(chosen)].float())  # the transposition is its own inverse
            return from_picture(self.refine_pictures(as_picture(values)[None], maps[None])[0].float().cpu())

        return in_windows(self.window, image, self.native_dims, prompts or [""] * len(probabilities), look)


def in_windows(
    window: PictureWindow,
    image: Tensor,
    native_dims: Sequence[int],
    prompts: Sequence[str],
    look: Callable[[Tensor, Sequence[int]], Tensor],
) -> Tensor:
    """Look at a scan once in each window that its prompts call for.

    Args:
        window: which that is.
        image: ``[C, *spatial]``.
        native_dims: accepted numbers of spatial dimensions.
        prompts: ``P`` phrases, one a map.
        look: makes the maps ``[N, *spatial]`` of ``N`` prompts, given by their indices, of a scaled scan
            ``[3, *spatial]``.

    Returns:
        ``[P, *spatial]``.

    Raises:
        ValueError: see :func:`scaled`.
    """
    spatial_values(image, native_dims)
    limits = window.choose(image, prompts)
    if len(set(limits)) <= 1:
        return look(scaled(image, native_dims, limits[0] if limits else None), range(len(prompts)))
    maps = torch.zeros(len(prompts), *image.shape[1:])
    for each in dict.fromkeys(limits):
        chosen = [index for index, own in enumerate(limits) if own == each]
        maps[chosen] = look(scaled(image, native_dims, each), chosen)
    return maps


def scaled(image: Tensor, native_dims: Sequence[int], limits: Limits | None = None) -> Tensor:
    """Scale a scan for the eye.

    Args:
        image: ``[C, *spatial]``; three channels are taken for colour, other numbers are averaged.
        native_dims: accepted numbers of spatial dimensions.
        limits: values that become black and white; None: the scan's 0.5th and 99.5th percentile.

    Returns:
        Plain float32 tensor ``[3, *spatial]`` in [0, 1]; zero if the scan is constant.

    Raises:
        ValueError: if it has another number of dimensions, no voxel, or values that are not finite.
    """
    grey = spatial_values(image, native_dims)
    values = image.detach().float() if image.shape[0] == 3 else grey[None]
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    # numpy, because torch.quantile refuses volumes of more than 16 million voxels
    low, high = np.percentile(values.cpu().numpy(), PERCENTILES) if limits is None else limits
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
