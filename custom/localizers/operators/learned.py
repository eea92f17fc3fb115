# SPDX-License-Identifier: Apache-2.0
"""Lesions found by a network that was trained on the user's own scans (``bundle/configs/self_teach.yaml``)."""

from __future__ import annotations

import numpy as np

from custom.localizers.operators.finder import load_finder
from custom.localizers.operators.grid import resized
from custom.localizers.operators.scan import Map, Scan, shared


@shared
def learned(scan: Scan, weights: str) -> Map:
    """What a self-taught network takes for a lesion; needs the files that ``self_teach.yaml`` writes.

    The scan is brought to the network's grid and grey levels as in training, the logistic outputs are averaged over the
    recorded flips, cut to the search area (brain, lungs, body), smoothed and brought back. "bright" and "dark" in a
    prompt change nothing here.

    Args:
        scan: of the kind that the network was trained on, with as many dimensions.
        weights: ``self_taught.safetensors``; ``self_taught.json`` lies beside it.

    Raises:
        ValueError: if a file is missing, damaged or of another network, or the scan has other dimensions.
    """
    finder = load_finder(weights)
    if scan.values.ndim != finder.spatial_dims:
        raise ValueError(
            f"{weights}: trained on {finder.spatial_dims}D scans, received a {scan.values.ndim}D scan. Train on such "
            "scans with bundle/configs/self_teach.yaml."
        )
    if np.ptp(scan.values) == 0:
        return np.zeros_like(scan.values)
    return np.clip(resized(finder.probability(scan.values), scan.values.shape), 0, 1)
