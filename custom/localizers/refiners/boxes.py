# SPDX-License-Identifier: Apache-2.0
"""From parts of a map to filled boxes."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from scipy import ndimage

from custom.localizers.refiners.maps import MapRefiner, check_threshold, components

ROUNDING = 1e-6  # in voxels: a box that ends on a border takes in no voxel beyond it


class ExpandedBoxes(MapRefiner):
    """Each connected part becomes a box along the axes, scaled about its centre, filled, cut at the scan's border.

    The box expansion of "Mask What Matters": its commands use the factor 1 (plain boxes), its functions 1.5. A box is
    filled with the largest value of its part; where boxes overlap, the larger value stays.

    Args:
        factor: of the box's sides.
        threshold: voxels must exceed it to belong to a part; the parts of a soft map hang together.
    """

    def __init__(self, factor: float = 1.0, threshold: float = 0.0) -> None:
        if factor <= 0:
            raise ValueError(f"factor must be positive, received {factor}.")
        self.factor, self.threshold = factor, check_threshold(threshold)

    def describe(self) -> dict[str, Any]:
        """Return name, version and settings."""
        return {"name": "expanded_boxes", "version": 1, "factor": self.factor, "threshold": self.threshold}

    def refine_map(self, values: np.ndarray) -> np.ndarray:
        """Fill the boxes of one map."""
        labels, found = components(values, self.threshold)
        boxes = np.zeros_like(values)
        peaks = ndimage.maximum(values, labels, range(1, found + 1))
        for part, peak in zip(ndimage.find_objects(labels), peaks, strict=True):
            box = tuple(self._scaled(side, size) for side, size in zip(part, values.shape, strict=True))
            boxes[box] = np.maximum(boxes[box], peak)
        return boxes

    def _scaled(self, side: slice, size: int) -> slice:
        centre, half = (side.start + side.stop) / 2, self.factor * (side.stop - side.start) / 2
        return slice(max(0, floor(centre - half + ROUNDING)), min(size, ceil(centre + half - ROUNDING)))
