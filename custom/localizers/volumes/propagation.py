# SPDX-License-Identifier: Apache-2.0
"""Masks followed from slice to slice: a structure that is clear in one is sought in its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from custom.localizers.base import PromptedRefiner
from custom.localizers.parts import shown_in
from custom.localizers.pictures import PictureRefiner, in_windows
from custom.localizers.volumes.slices import AXES, SliceView, chosen_maps, plain, voxel_sizes
from custom.localizers.windows import OWN

_REACH = 0.02  # of the picture's longer side: how far from the carried mask the coarse map still counts


@dataclass(frozen=True)
class Rules:
    """When a region starts, and when it has vanished.

    Args:
        threshold: probability from which a voxel belongs to a region.
        components: largest number of connected regions that are followed for each prompt.
        least_share: a region with less than this share of the evidence of the strongest one is a spurious island.
        least_area: a region has vanished where it is smaller than this share of its size in the slice it started in.
        least_overlap: or where its overlap with the slice before (intersection over union) is less than this: it
            jumped, or leaked.
        support: largest probability of the coarse map within the region from which a slice counts as supported.
        patience: how many slices without support may lie between slices with support. Behind the last supported
            slice nothing is kept.
    """

    threshold: float = 0.5
    components: int = 8
    least_share: float = 0.2
    least_area: float = 0.05
    least_overlap: float = 0.25
    support: float = 0.1
    patience: int = 3

    def __post_init__(self) -> None:
        shares = (self.threshold, self.least_share, self.least_area, self.least_overlap, self.support)
        if not all(0 <= each <= 1 for each in shares) or self.threshold == 0:
            raise ValueError(f"Thresholds and shares lie in [0, 1], threshold above 0; received {self}.")
        if self.components < 1 or self.patience < 0:
            raise ValueError(f"components is at least 1 and patience at least 0; received {self}.")


@dataclass(frozen=True)
class Seed:
    """Where a region starts: in the slice that holds most of its evidence.

    - ``prompt``: index of the map.
    - ``index``: of the slice.
    - ``coarse``: the map of that region in that slice, ``[1, 1, H, W]``.
    """

    prompt: int
    index: int
    coarse: Tensor


class Propagation(PromptedRefiner):
    """Refines the maps of a volume with a refiner of pictures, following each region from slice to slice.

    For each prompt, the coarse map's connected regions are found, the strong ones kept (:class:`Rules`), and each is
    refined in the slice where it has most evidence (sum of its probabilities). The outcome is carried to both
    neighbours as their prompt, joined with the coarse map near it (the larger of the two), refined there, carried on,
    and so forth until the region has vanished. So a structure is followed through slices where the coarse map is weak,
    and islands that hang together with nothing are dropped. 2D scans pass through to the refiner.

    Args:
        refiner: outlines what a map points at (the SAM family).
        axis: that is cut across; 2 (axial) suits most scans.
        batch_size: regions that the refiner sees at once.
        window: grey values that the refiner sees as black and white: ``[low, high]``; None: percentiles; ``auto``: see
            :class:`~custom.localizers.windows.PictureWindow`; ``own``: as the refiner has it.
        rules: the fields of :class:`Rules`.

    Raises:
        ValueError: if a parameter is outside its range.
    """

    native_dims: tuple[int, ...] = (2, 3)

    def __init__(
        self, refiner: PictureRefiner, axis: int = 2, batch_size: int = 8, window: Any = OWN, **rules: Any
    ) -> None:
        self.refiner, self.axis, self.batch_size = shown_in(refiner, window), checked_axis(axis), batch_size
        self.rules = Rules(**rules)

    def describe(self) -> dict[str, Any]:
        """Return the refiner's description, the axis and the rules."""
        return {
            "name": "propagation",
            "version": 1,
            "refiner": self.refiner.describe(),
            "axis": self.axis,
            **self.refiner.window.describe(),
            **asdict(self.rules),
        }

    def refine(self, image: Tensor, probabilities: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Refine maps; see :class:`custom.localizers.base.PromptedRefiner`."""
        if image.ndim == 3:
            return self.refiner.refine(image, probabilities, prompts)
        maps = plain(probabilities).detach().float().cpu()
        view = SliceView(self.axis, image.shape[1:], voxel_sizes(image))

        def refine(volume: Tensor, chosen: Sequence[int]) -> Tensor:
            return self._followed(volume, view, chosen_maps(maps, chosen))

        return in_windows(self.refiner.window, image, (3,), prompts or [""] * len(maps), refine)

    def _followed(self, volume: Tensor, view: SliceView, coarse: Tensor) -> Tensor:
        """Refine the maps of a scaled volume."""
        seeds = find_seeds(coarse, view, self.rules)
        pictures = [(seed.index, seed.coarse) for seed in seeds]
        starts = zip(seeds, self._refined(volume, view, pictures), strict=True)
        walks = [
            Walk(seed, start, direction, coarse, view, self.rules)
            for seed, start in starts
            for direction in (-1, 1)
            if _area(start, self.rules.threshold)
        ]
        while moving := [walk for walk in walks if walk.moving]:
            found = self._refined(volume, view, [(walk.index, walk.prompt()) for walk in moving])
            for walk, each in zip(moving, found, strict=True):
                walk.accept(each)
        return gather(walks, coarse, view)

    def _refined(self, volume: Tensor, view: SliceView, tasks: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
        """Refine one map ``[1, 1, H, W]`` in each of several slices."""
        refined: list[Tensor] = []
        for start in range(0, len(tasks), self.batch_size):
            batch = tasks[start : start + self.batch_size]
            pictures = view.pictures(volume, [index for index, _ in batch])
            maps = self.refiner.refine_pictures(pictures, torch.cat([each for _, each in batch]))
            refined += list(maps.detach().float().cpu().split(1))
        return refined


class Walk:
    """One region on its way in one direction.

    - ``index``: the slice to be refined next.
    - ``moving``: whether there is one.
    - ``kept``: slice -> map ``[1, 1, H, W]`` of the region, the starting slice included.
    """

    def __init__(
        self, seed: Seed, start: Tensor, direction: int, coarse: Tensor, view: SliceView, rules: Rules
    ) -> None:
        self.seed, self.direction, self.view, self.rules = seed, direction, view, rules
        self.coarse = coarse[seed.prompt][None]
        self.kept = {seed.index: start}
        self.index = seed.index + direction
        self.moving = 0 <= self.index < len(view)
        self._carried, self._first_area = start, _area(start, rules.threshold)
        self._unsupported: dict[int, Tensor] = {}

    def prompt(self) -> Tensor:
        """Join what is known of the region in the slice to be refined: carried mask, coarse map near it; a picture."""
        radius = max(1, round(_REACH * max(self.view.picture_size)))
        near = F.max_pool2d((self._carried >= self.rules.threshold).float(), 2 * radius + 1, 1, radius)
        return torch.maximum(self._carried, self._coarse_picture() * near)

    def accept(self, refined: Tensor) -> None:
        """Take the refined map of the slice, and go on or stop."""
        region = refined >= self.rules.threshold
        if not self._goes_on(region):
            self.moving = False
            return
        self._unsupported[self.index] = refined
        if float((self._coarse_picture() * region).max()) >= self.rules.support:
            self.kept |= self._unsupported
            self._unsupported = {}
        self._carried = refined
        self.index += self.direction
        self.moving = len(self._unsupported) <= self.rules.patience and 0 <= self.index < len(self.view)

    def _goes_on(self, region: Tensor) -> bool:
        before = self._carried >= self.rules.threshold
        if int(region.sum()) < max(1.0, self.rules.least_area * self._first_area):
            return False
        return float((region & before).sum() / (region | before).sum()) >= self.rules.least_overlap

    def _coarse_picture(self) -> Tensor:
        return self.view.pictures(self.coarse, [self.index])


def find_seeds(coarse: Tensor, view: SliceView, rules: Rules) -> list[Seed]:
    """Find where regions start.

    Args:
        coarse: maps ``[P, X, Y, Z]``.
        view: how slices are shown.
        rules: which regions count.
    """
    seeds = []
    for prompt, each in enumerate(coarse):
        values = each.numpy()
        labels, count = ndimage.label(values >= rules.threshold, structure=np.ones((3, 3, 3)))
        if not count:
            continue
        evidence = ndimage.sum(values, labels, range(1, count + 1))
        for label in np.argsort(-evidence, kind="stable")[: rules.components]:
            if evidence[label] >= rules.least_share * evidence.max():
                region = each * torch.from_numpy(labels == label + 1)
                index = int(region.movedim(view.axis, 0).flatten(1).sum(dim=1).argmax())
                seeds.append(Seed(prompt, index, view.pictures(region[None], [index])))
    return seeds


def gather(walks: Sequence[Walk], coarse: Tensor, view: SliceView) -> Tensor:
    """Put what was found into volumes shaped like ``coarse``; the larger where regions overlap."""
    result = torch.zeros_like(coarse)
    slices = result.movedim(view.axis + 1, 0)  # a view of the same memory, [N, P, A, B]
    for walk in walks:
        for index, picture in walk.kept.items():
            target = slices[index, walk.seed.prompt]
            torch.maximum(target, view.planes(picture)[0, 0], out=target)
    return result.clamp(0, 1)


def checked_axis(axis: int) -> int:
    """Return the axis; raise ValueError if it is none of a volume's."""
    if axis not in AXES:
        raise ValueError(f"axis is 0 (sagittal), 1 (coronal) or 2 (axial), received {axis!r}.")
    return axis


def _area(picture: Tensor, threshold: float) -> int:
    return int((picture >= threshold).sum())
