# SPDX-License-Identifier: Apache-2.0
"""Lungs on CT and on frontal radiographs."""

from __future__ import annotations

import numpy as np

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.scan import Map, Scan, shared, soft_edge


@shared
def lungs(scan: Scan) -> Map:
    """Dark air inside the body.

    Args:
        scan: CT (Hounsfield units or grey picture) or frontal radiograph.
    """
    dark = scan.values < (-500 if scan.hounsfield else np.median(scan.values))
    return soft_edge(dark & body_mask(scan))
