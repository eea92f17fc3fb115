# SPDX-License-Identifier: Apache-2.0
"""Connected components: instances where objects do not touch. No network learned to tell them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Components:
    """The components of a label map.

    Attributes:
        ids: ``[*spatial]`` int32; 0 is background, components are numbered from 1 across all classes.
        classes: index of the class of each component, ``[N]``, from 1.
        voxels: size of each component, ``[N]``.
    """

    ids: np.ndarray
    classes: np.ndarray
    voxels: np.ndarray

    def of_class(self, index: int) -> np.ndarray:
        """The map with the components of one class only."""
        is_of = np.concatenate([[False], self.classes == index])
        return np.where(is_of[self.ids], self.ids, 0)


def components(labels: np.ndarray, num_classes: int, min_voxels: float = 0) -> Components:
    """Find the components of each class; voxels that touch by a face, an edge or a corner belong together.

    Args:
        labels: class of each voxel, ``[*spatial]``, 0 is the background.
        num_classes: number of classes without the background.
        min_voxels: smaller components are left out.
    """
    ids = np.zeros(labels.shape, dtype=np.int32)
    classes: list[int] = []
    voxels: list[int] = []
    for index in range(1, num_classes + 1):
        found, count = ndimage.label(labels == index, structure=np.ones((3,) * labels.ndim))
        sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
        kept = np.flatnonzero(sizes >= min_voxels)
        number = np.zeros(count + 1, dtype=np.int32)
        number[kept + 1] = len(classes) + 1 + np.arange(len(kept))
        ids += number[found]
        classes += [index] * len(kept)
        voxels += sizes[kept].tolist()
    return Components(ids, np.array(classes, dtype=np.int64), np.array(voxels, dtype=np.int64))
