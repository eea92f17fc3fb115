# SPDX-License-Identifier: Apache-2.0
"""Keeping the largest parts of a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from custom.localizers.refiners.maps import MapRefiner, check_threshold, components


class LargestComponents(MapRefiner):
    """Keeps the largest connected parts of a map with their values; the rest becomes 0.

    Put it behind a refiner that cuts, or give a threshold: the parts of a soft map hang together. MedCLIP-SAMv2 keeps
    one part, two for lungs. Of parts of one size, the first in the order of the axes is kept.

    Args:
        count: how many parts are kept.
        threshold: voxels must exceed it to belong to a part.
    """

    def __init__(self, count: int = 1, threshold: float = 0.0) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, received {count}.")
        self.count, self.threshold = count, check_threshold(threshold)

    def describe(self) -> dict[str, Any]:
        """Return name, version and settings."""
        return {"name": "largest_components", "version": 1, "count": self.count, "threshold": self.threshold}

    def refine_map(self, values: np.ndarray) -> np.ndarray:
        """Keep the largest parts of one map."""
        labels, found = components(values, self.threshold)
        sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
        kept = 1 + np.argsort(-sizes, kind="stable")[: self.count]
        return np.where(np.isin(labels, kept), values, 0).astype(np.float32)
