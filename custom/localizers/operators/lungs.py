# SPDX-License-Identifier: Apache-2.0
"""Lungs on CT and on frontal radiographs."""

from __future__ import annotations

import numpy as np

from custom.localizers.operators.ct_lungs import ct_lung_mask
from custom.localizers.operators.scan import Map, Scan, shared, soft_edge
from custom.localizers.operators.xray_lungs import xray_lungs


@shared
def lungs(scan: Scan, min_share: float = 0.004, close: float = 0.025) -> Map:
    """Lungs: on radiographs by shape and darkness, on CT as the air inside the body.

    Args:
        scan: CT or frontal radiograph; a volume is CT.
        min_share: CT: least share of the picture that a part of the lungs must have.
        close: CT: radius of gaps to close (vessels, nodules at the wall), share of the picture's size.
    """
    if scan.modality == "xray" and scan.values.ndim == 2:
        return xray_lungs(scan)
    return soft_edge(lung_mask(scan, min_share, close))


def lung_mask(scan: Scan, min_share: float = 0.004, close: float = 0.025) -> np.ndarray:
    """Boolean lungs of a CT scan, shared between operators."""
    key = ("lung_mask", min_share, close)
    return scan.once(key, lambda: ct_lung_mask(scan, gap=close, least=min_share))
