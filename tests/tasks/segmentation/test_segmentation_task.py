# SPDX-License-Identifier: Apache-2.0
"""What the segmentation task says of its figures; where predictions lie is in test_geometry.py."""

from __future__ import annotations

import numpy as np
import torch

from custom.metrics.segmentation import scan_figures, segmentation_report
from custom.tasks.segmentation import Segmentation, label_classes


def test_the_line_of_figures_counts_what_their_means_leave_out() -> None:
    lump, nothing = np.zeros((8, 8), dtype=int), np.zeros((8, 8), dtype=int)
    lump[2:6, 2:6] = 1
    scans = [scan_figures(*pair, 1, (1, 1)) for pair in ((lump, lump), (nothing, lump), (nothing, nothing))]
    task = Segmentation(label_classes({1: "lump"}, [], 2), lambda images, network: torch.zeros(0), 2)
    said = task.summary({**segmentation_report(scans, ["lump"], resamples=0), "distance_unit": "pixels"})
    assert "HD95 0.000 pixels (without 1 missed, 1 absent)" in said
    assert "DICE 0.500 (without 1 absent)" in said
