# SPDX-License-Identifier: Apache-2.0
"""Models of pictures on volumes: slice by slice, along one axis or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.localizers.fusion import check_fusion, fuse
from custom.localizers.pictures import PictureLocalizer, PictureRefiner, scaled
from custom.localizers.volumes.slices import AXES, SliceView, plain, voxel_sizes


class Slicewise:
    """Applies a localizer of pictures to a volume slice by slice; 2D scans pass through to it.

    Intensities are scaled over the whole volume once, so that a slice does not brighten because an organ left it.
    Slices are turned upright and made of square pixels (:class:`SliceView`), and their maps turned back. A slice
    without any contrast (air) gets a map of zeros and is not looked at.

    Args:
        localizer: makes the maps of pictures.
        axes: that are cut across, one or several of 0 (sagittal), 1 (coronal), 2 (axial). More axes cost more and
            take away the stripes of slices that were judged one by one.
        fusion: how the maps of several axes become one, see :func:`custom.localizers.fusion.fuse`. ``mean`` unless
            there is a reason: ``max`` for what is seen well from one side only, ``geometric`` where all must agree.
        batch_size: slices that the localizer sees at once.
        step: only every ``step``-th slice is looked at (and the last); maps between are interpolated linearly. Worth
            it where slices are thin compared with the structure.
        square_pixels: False: show voxels as they are.

    Raises:
        ValueError: if a parameter is none of those listed.
    """

    native_dims: tuple[int, ...] = (2, 3)

    def __init__(
        self,
        localizer: PictureLocalizer,
        axes: int | Sequence[int] = (2,),
        fusion: str = "mean",
        batch_size: int = 8,
        step: int = 1,
        square_pixels: bool = True,
    ) -> None:
        self.localizer, self.axes, self.fusion = localizer, checked_axes(axes, fusion), fusion
        self.batch_size, self.step, self.square_pixels = _positive(batch_size), _positive(step), square_pixels

    def describe(self) -> dict[str, Any]:
        """Return the localizer's description and how its maps are made into one."""
        return {
            "name": "slicewise",
            "version": 1,
            "localizer": self.localizer.describe(),
            "axes": list(self.axes),
            "fusion": self.fusion,
            "step": self.step,
            "square_pixels": self.square_pixels,
        }

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        if image.ndim == 3:
            return self.localizer.localize(image, prompts)
        volume, spacing = scaled(image, (3,)), voxel_sizes(image)
        if not prompts:
            return torch.zeros(0, *volume.shape[1:])

        def look(view: SliceView, indices: Sequence[int]) -> Tensor:
            return self.localizer.localize_pictures(view.pictures(volume, indices), prompts)

        maps = [
            _along(
                SliceView(axis, volume.shape[1:], spacing, self.square_pixels),
                look,
                _with_contrast(volume, axis),
                len(prompts),
                self.batch_size,
                self.step,
            )
            for axis in self.axes
        ]
        return fuse(torch.stack(maps), self.fusion)


class SlicewiseRefiner:
    """Applies a refiner of pictures to a volume slice by slice; 2D scans pass through to it.

    Slices whose coarse maps are all zero stay zero and are not looked at. See :class:`Slicewise` for the parameters,
    and :class:`custom.localizers.volumes.Propagation` for a refiner whose slices know of each other.
    """

    native_dims: tuple[int, ...] = (2, 3)

    def __init__(
        self,
        refiner: PictureRefiner,
        axes: int | Sequence[int] = (2,),
        fusion: str = "mean",
        batch_size: int = 8,
        square_pixels: bool = True,
    ) -> None:
        self.refiner, self.axes, self.fusion = refiner, checked_axes(axes, fusion), fusion
        self.batch_size, self.square_pixels = _positive(batch_size), square_pixels

    def describe(self) -> dict[str, Any]:
        """Return the refiner's description and how its maps are made into one."""
        return {
            "name": "slicewise_refiner",
            "version": 1,
            "refiner": self.refiner.describe(),
            "axes": list(self.axes),
            "fusion": self.fusion,
            "square_pixels": self.square_pixels,
        }

    def refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine maps; see :class:`custom.localizers.base.Refiner`."""
        if image.ndim == 3:
            return self.refiner.refine(image, probabilities)
        volume, spacing, coarse = scaled(image, (3,)), voxel_sizes(image), plain(probabilities).detach().float()
        if not len(coarse):
            return coarse

        def look(view: SliceView, indices: Sequence[int]) -> Tensor:
            return self.refiner.refine_pictures(view.pictures(volume, indices), view.pictures(coarse, indices))

        maps = [
            _along(
                SliceView(axis, volume.shape[1:], spacing, self.square_pixels),
                look,
                _not_empty(coarse, axis),
                len(coarse),
                self.batch_size,
            )
            for axis in self.axes
        ]
        return fuse(torch.stack(maps), self.fusion)


def checked_axes(axes: int | Sequence[int], fusion: str = "mean") -> tuple[int, ...]:
    """Return the axes as a tuple; raise ValueError if one is none of a volume's, or named twice."""
    chosen = (axes,) if isinstance(axes, int) else tuple(axes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(AXES):
        raise ValueError(f"axes are some of 0 (sagittal), 1 (coronal) and 2 (axial), each once; received {axes!r}.")
    check_fusion(fusion, None, len(chosen))
    return chosen


def _along(
    view: SliceView,
    look: Callable[[SliceView, Sequence[int]], Tensor],
    worthwhile: Sequence[bool],
    maps: int,
    batch_size: int,
    step: int = 1,
) -> Tensor:
    """Maps ``[P, X, Y, Z]`` from what ``look`` finds in batches of slices."""
    seen = sorted({*range(0, len(view), step), len(view) - 1})
    found = torch.zeros(len(seen), maps, *view.size[::-1])
    for places in _batches([place for place, index in enumerate(seen) if worthwhile[index]], batch_size):
        pictures = look(view, [seen[place] for place in places])
        found[places] = view.planes(pictures.detach().float().cpu())
    return _between(found, seen, len(view)).movedim(0, view.axis + 1).clamp(0, 1)


def _batches(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])


def _with_contrast(volume: Tensor, axis: int) -> list[bool]:
    others = tuple(dim for dim in range(volume.ndim) if dim != axis + 1)
    return (volume.amax(dim=others) > volume.amin(dim=others)).tolist()


def _not_empty(maps: Tensor, axis: int) -> list[bool]:
    others = tuple(dim for dim in range(maps.ndim) if dim != axis + 1)
    return (maps.amax(dim=others) > 0).tolist()


def _between(found: Tensor, seen: Sequence[int], length: int) -> Tensor:
    """From the maps ``[len(seen), ...]`` of some slices to those of all, linearly between neighbours."""
    if len(seen) == length:
        return found
    position = np.interp(np.arange(length), seen, np.arange(len(seen)))
    lower = torch.from_numpy(np.floor(position).astype(np.int64))
    share = torch.from_numpy((position - np.floor(position)).astype(np.float32)).view(-1, 1, 1, 1)
    upper = (lower + 1).clamp(max=len(seen) - 1)
    return found[lower] * (1 - share) + found[upper] * share


def _positive(value: int) -> int:
    if value < 1:
        raise ValueError(f"batch_size and step are whole numbers from 1, received {value!r}.")
    return int(value)
