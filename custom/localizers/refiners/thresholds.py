# SPDX-License-Identifier: Apache-2.0
"""Cutting a map at a fixed value."""

from __future__ import annotations

from typing import Any

import numpy as np

from custom.localizers.refiners.maps import MapRefiner, check_threshold


class Threshold(MapRefiner):
    """1 where the map exceeds a value, 0 elsewhere: 0.3 of "Mask What Matters" and MedCLIP-SAMv2 on stretched maps.

    Args:
        threshold: in [0, 1).
    """

    def __init__(self, threshold: float = 0.3) -> None:
        self.threshold = check_threshold(threshold)

    def describe(self) -> dict[str, Any]:
        """Return name, version and threshold."""
        return {"name": "threshold", "version": 1, "threshold": self.threshold}

    def refine_map(self, values: np.ndarray) -> np.ndarray:
        """Cut one map."""
        return (values > self.threshold).astype(np.float32)
