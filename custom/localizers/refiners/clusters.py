# SPDX-License-Identifier: Apache-2.0
"""Cutting a map where its values fall apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from custom.localizers.refiners.maps import MapRefiner

SAMPLES = 256 * 256


class KMeans(MapRefiner):
    """Two clusters of values, the higher one is the region (MedCLIP-SAMv2, whose seed is 10).

    Clusters are found on a grid of about 65,000 values, 256 along an axis of a picture, nearest neighbours; each voxel
    then goes to the nearer centre. The region gets the largest value of the map: 1 where the map was stretched to
    [0, 1], as published; little where the map says little. A constant map has no clusters and becomes 0.

    Args:
        seed: of the first centres.
    """

    def __init__(self, seed: int = 10) -> None:
        self.seed = seed

    def describe(self) -> dict[str, Any]:
        """Return name, version and seed."""
        return {"name": "kmeans", "version": 1, "seed": self.seed}

    def refine_map(self, values: np.ndarray) -> np.ndarray:
        """Cut one map between the centres of its clusters."""
        from sklearn.cluster import KMeans as Clusters

        sample = _sampled(values)
        if np.ptp(sample) == 0:
            return np.zeros_like(values)
        centres = Clusters(n_clusters=2, random_state=self.seed, n_init=1).fit(sample.reshape(-1, 1)).cluster_centers_
        return np.where(values > centres.mean(), values.max(), 0).astype(np.float32)


def _sampled(values: np.ndarray) -> np.ndarray:
    """Nearest neighbours on a grid of ``SAMPLES`` points."""
    side = round(SAMPLES ** (1 / values.ndim))
    return values[np.ix_(*(np.arange(side) * size // side for size in values.shape))]
