# SPDX-License-Identifier: Apache-2.0
"""Models of pictures on volumes: slice by slice, along one axis or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from custom.localizers.base import PromptedRefiner
from custom.localizers.fusion import check_fusion, fuse_into, unfused
from custom.localizers.parts import shown_in
from custom.localizers.pictures import PictureLocalizer, PictureRefiner, in_windows
from custom.localizers.volumes.slices import AXES, SliceView, chosen_maps, plain, voxel_sizes
from custom.localizers.windows import OWN


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
        window: grey values that the localizer sees as black and white: ``[low, high]``; None: percentiles; ``auto``:
            see :class:`~custom.localizers.windows.PictureWindow`; ``own``: as the localizer has it.

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
        window: Any = OWN,
    ) -> None:
        self.localizer, self.axes, self.fusion = shown_in(localizer, window), checked_axes(axes, fusion), fusion
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
            **self.localizer.window.describe(),
        }

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        if image.ndim == 3:
            return self.localizer.localize(image, prompts)
        if not prompts:
            return torch.zeros(0, *image.shape[1:])

        def localize(volume: Tensor, chosen: Sequence[int]) -> Tensor:
            asked = [prompts[index] for index in chosen]

            def look(view: SliceView, indices: Sequence[int]) -> Tensor:
                return self.localizer.localize_pictures(view.pictures(volume, indices), asked)

            views = self._views(volume, voxel_sizes(image))
            worthwhile = [_with_contrast(volume, view.axis) for view in views]
            found = (
                _along(*each, look, len(asked), self.batch_size, self.step)
                for each in zip(views, worthwhile, strict=True)
            )
            return _fused(views, found, (len(asked), *volume.shape[1:]), self.fusion)

        return in_windows(self.localizer.window, image, (3,), prompts, localize)

    def _views(self, volume: Tensor, spacing: Sequence[float]) -> list[SliceView]:
        return [SliceView(axis, volume.shape[1:], spacing, self.square_pixels) for axis in self.axes]


class SlicewiseRefiner(PromptedRefiner):
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
        window: Any = OWN,
    ) -> None:
        self.refiner, self.axes, self.fusion = shown_in(refiner, window), checked_axes(axes, fusion), fusion
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
            **self.refiner.window.describe(),
        }

    def refine(self, image: Tensor, probabilities: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Refine maps; see :class:`custom.localizers.base.PromptedRefiner`."""
        if image.ndim == 3:
            return self.refiner.refine(image, probabilities, prompts)
        maps = plain(probabilities).detach().float()
        if not len(maps):
            return maps

        def refine(volume: Tensor, chosen: Sequence[int]) -> Tensor:
            coarse = chosen_maps(maps, chosen)

            def look(view: SliceView, indices: Sequence[int]) -> Tensor:
                return self.refiner.refine_pictures(view.pictures(volume, indices), view.pictures(coarse, indices))

            spacing = voxel_sizes(image)
            views = [SliceView(axis, volume.shape[1:], spacing, self.square_pixels) for axis in self.axes]
            found = (_along(view, _not_empty(coarse, view.axis), look, len(coarse), self.batch_size) for view in views)
            return _fused(views, found, coarse.shape, self.fusion)

        return in_windows(self.refiner.window, image, (3,), prompts or [""] * len(maps), refine)


def checked_axes(axes: int | Sequence[int], fusion: str = "mean") -> tuple[int, ...]:
    """Return the axes as a tuple; raise ValueError if one is none of a volume's, or named twice."""
    chosen = (axes,) if isinstance(axes, int) else tuple(axes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(AXES):
        raise ValueError(f"axes are some of 0 (sagittal), 1 (coronal) and 2 (axial), each once; received {axes!r}.")
    check_fusion(fusion, None, len(chosen))
    return chosen


def _fused(
    views: Sequence[SliceView], found: Iterable[Iterator[tuple[int, Tensor]]], shape: Sequence[int], fusion: str
) -> Tensor:
    """Fuse what is found slice by slice along several axes into maps ``[P, X, Y, Z]``; no second copy of these is held.

    Args:
        views: one an axis.
        found: for each of them, the number of each slice and its maps ``[P, A, B]``.
        shape: of the result.
        fusion: see :func:`custom.localizers.fusion.fuse`.
    """
    fused = unfused(shape, fusion)
    for view, along in zip(views, found, strict=True):
        slices = fused.movedim(view.axis + 1, 0)  # a view of the same memory, [N, P, A, B]
        for index, planes in along:
            fuse_into(slices[index], planes.clamp(0, 1), fusion, 1 / len(views), len(views))
    return fused.clamp_(0, 1)


def _along(
    view: SliceView,
    worthwhile: Sequence[bool],
    look: Callable[[SliceView, Sequence[int]], Tensor],
    maps: int,
    batch_size: int,
    step: int = 1,
) -> Iterator[tuple[int, Tensor]]:
    """The maps ``[P, A, B]`` of each slice in turn, from what ``look`` finds; linear between those that are seen."""
    seen = sorted({*range(0, len(view), step), len(view) - 1})
    last, before = -1, torch.zeros(0)
    for index, found in _looked_at(view, worthwhile, look, maps, batch_size, seen):
        for between in range(last + 1, index):
            yield between, torch.lerp(before, found, (between - last) / (index - last))
        yield index, found
        last, before = index, found


def _looked_at(
    view: SliceView,
    worthwhile: Sequence[bool],
    look: Callable[[SliceView, Sequence[int]], Tensor],
    maps: int,
    batch_size: int,
    seen: Sequence[int],
) -> Iterator[tuple[int, Tensor]]:
    """The maps of the slices ``seen``, looked at in batches; zero for those that are not worth it."""
    nothing = torch.zeros(maps, *view.size[::-1])
    batches, found = _batches([index for index in seen if worthwhile[index]], batch_size), {}
    for index in seen:
        if worthwhile[index] and index not in found:
            batch = next(batches)
            planes = view.planes(look(view, batch).detach().float().cpu())
            found = dict(zip(batch, planes, strict=True))
        yield index, found.get(index, nothing)


def _batches(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])


def _with_contrast(volume: Tensor, axis: int) -> list[bool]:
    others = tuple(dim for dim in range(volume.ndim) if dim != axis + 1)
    return (volume.amax(dim=others) > volume.amin(dim=others)).tolist()


def _not_empty(maps: Tensor, axis: int) -> list[bool]:
    others = tuple(dim for dim in range(maps.ndim) if dim != axis + 1)
    return (maps.amax(dim=others) > 0).tolist()


def _positive(value: int) -> int:
    if value < 1:
        raise ValueError(f"batch_size and step are whole numbers from 1, received {value!r}.")
    return int(value)
