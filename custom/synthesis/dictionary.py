# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms: from scans to what a network that finds lesions learns from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from custom.keys import MIMKeys
from custom.localizers.operators.finder import search_area, to_grid
from custom.localizers.operators.grid import resized
from custom.synthesis.lesion import LesionStatistics, add_lesion
from datasets.geometry import boxes_in_memory

AREA, ANNOTATION, ANNOTATED, LABEL = "area", "annotation", "annotated", "label"
LEAST_SHARE = 0.3  # of a grid voxel that must be annotated: small lesions survive the shrinking


class AnnotationTargetd(MapTransform):
    """Adds the annotation of a scan on the network's grid, and whether there is one.

    Put it behind the loading and before :class:`NetworkGridd`: it needs the scan's own size.

    Args:
        keys: the scan ``[C, *spatial]``.
        image_size: of the network's grid.
        mask_values: values of the label map ``mask`` that are lesion; None: all but 0.

    Adds ``annotation``, float32 ``[1, *image_size]`` of 0 and 1, and ``annotated``, float32 ``[1]``: 1 if the entry has
    a ``mask`` ``[1, *spatial]`` or ``boxes`` (``[x, y, width, height]`` in voxels of the file; in each the ellipse
    counts), which are taken away.
    """

    def __init__(
        self, keys: KeysCollection, image_size: Sequence[int], mask_values: Sequence[int] | None = None
    ) -> None:
        super().__init__(keys)
        self.image_size, self.mask_values = tuple(image_size), mask_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with both entries."""
        result = dict(data)
        mask, boxes = result.pop("mask", None), result.pop("boxes", None)
        shape = tuple(result[self.keys[0]].shape[1:])
        target = np.zeros(shape, dtype=np.float32)
        if mask is not None:
            target = self._chosen(np.asarray(mask)[0])
        elif boxes:
            target = in_ellipses(boxes_in_memory(boxes, result[self.keys[0]]), shape)
        grid = resized(target, self.image_size) >= LEAST_SHARE if target.any() else np.zeros(self.image_size)
        result[ANNOTATION] = torch.from_numpy(grid.astype(np.float32))[None]
        result[ANNOTATED] = torch.tensor([float(mask is not None or boxes is not None)])
        return result

    def _chosen(self, mask: np.ndarray) -> np.ndarray:
        chosen = mask != 0 if self.mask_values is None else np.isin(mask, list(self.mask_values))
        return chosen.astype(np.float32)


class NetworkGridd(MapTransform):
    """Scans on the network's grid: ``[C, *spatial]`` to float32 ``[1, *image_size]`` in [0, 1].

    See :func:`custom.localizers.operators.finder.to_grid`.

    Args:
        keys: the scans; channels are averaged.
        image_size: of the grid.
    """

    def __init__(self, keys: KeysCollection, image_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.image_size = tuple(image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the scans replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            values = _plain(result[key]).float().mean(dim=0).cpu().numpy()
            result[key] = torch.from_numpy(to_grid(values, self.image_size))[None]
        return result


class SearchAread(MapTransform):
    """Adds where lesions may lie: ``area``, float32 ``[1, *image_size]`` of 0 and 1.

    Args:
        keys: the scan on the network's grid.
        area: brain, lungs, body or anywhere.
        modality: mri, ct or xray.
    """

    def __init__(self, keys: KeysCollection, area: str, modality: str) -> None:
        super().__init__(keys)
        self.area, self.modality = area, modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the area."""
        result = dict(data)
        found = search_area(_plain(result[self.keys[0]])[0].numpy(), self.area, self.modality)
        result[AREA] = torch.from_numpy(found.astype(np.float32))[None]
        return result


class RandLesionsd(Randomizable, MapTransform):
    """Puts synthetic lesions into a scan and adds the mask of them and of the annotated ones.

    Seeded by ``set_random_state``. The same for 2D and 3D.

    Args:
        keys: the scan, float32 ``[1, *spatial]``, 0 = darkest.
        donors: entries with scans of the same size and key, from which foreign patches are taken; None: the scan's own.
        counts: how often there are 0, 1, 2, ... lesions; relative weights.
        statistics: arguments of :class:`custom.synthesis.LesionStatistics` that differ from its own.
        area_key: where lesions may lie, ``[1, *spatial]``, above 0.5.
        annotation_key: lesions that are there already, ``[1, *spatial]`` of 0 and 1; they join the label. May be
            missing.
        label_key: result, float32 ``[1, *spatial]`` of 0 and 1.

    Raises:
        ValueError: if counts or statistics make no sense; when called, if a donor has another shape.
    """

    def __init__(
        self,
        keys: KeysCollection = MIMKeys.IMAGE,
        donors: Sequence[Mapping[Hashable, Any]] | None = None,
        counts: Sequence[float] = (0.05, 0.65, 0.3),
        statistics: Mapping[str, Any] | None = None,
        area_key: str = AREA,
        annotation_key: str = ANNOTATION,
        label_key: str = LABEL,
    ) -> None:
        super().__init__(keys)
        weights = np.array(counts, dtype=float)
        if weights.size == 0 or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError(f"counts holds the weights of 0, 1, 2, ... lesions, none negative; received {counts!r}.")
        self.donors, self.counts = donors, weights / weights.sum()
        self.statistics = LesionStatistics(**(statistics or {}))
        self.area_key, self.annotation_key, self.label_key = area_key, annotation_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with a changed scan and its label."""
        result = dict(data)
        key = self.keys[0]
        values, area = _plain(result[key])[0].numpy(), _plain(result[self.area_key])[0].numpy() > 0.5
        label = np.zeros(values.shape, dtype=bool)
        if self.annotation_key in result:
            label = _plain(result[self.annotation_key])[0].numpy() > 0.5
        for _ in range(int(self.R.choice(len(self.counts), p=self.counts))):
            values, lesion = add_lesion(self.R, values, area, self._donor(key, values), self.statistics)
            label = label | lesion
        result[key] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]
        result[self.label_key] = torch.from_numpy(label.astype(np.float32))[None]
        return result

    def _donor(self, key: Hashable, values: np.ndarray) -> np.ndarray:
        if not self.donors:
            return values
        entry = self.donors[int(self.R.randint(len(self.donors)))]
        donor: np.ndarray = _plain(entry[key])[0].numpy()
        if donor.shape != values.shape:
            raise ValueError(f"A donor has the shape {donor.shape}, the scan {values.shape}: they must be the same.")
        return donor


def in_ellipses(boxes: Sequence[Sequence[float]], shape: Sequence[int]) -> np.ndarray:
    """Ellipses inscribed in boxes ``[x, y, width, height]``: float32 ``[X, Y]`` of 0 and 1, at least a pixel each."""
    found = np.zeros(tuple(shape), dtype=np.float32)
    across, down = np.ogrid[: shape[0], : shape[1]]
    for x, y, width, height in boxes:
        centre = (x + (width - 1) / 2, y + (height - 1) / 2)
        inside = ((across - centre[0]) / (width / 2)) ** 2 + ((down - centre[1]) / (height / 2)) ** 2 <= 1
        found[inside] = 1
        found[min(int(centre[0]), shape[0] - 1), min(int(centre[1]), shape[1] - 1)] = 1
    return found


def _plain(value: Tensor) -> Tensor:
    return value.as_tensor() if hasattr(value, "as_tensor") else value
