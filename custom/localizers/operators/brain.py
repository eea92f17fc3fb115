# SPDX-License-Identifier: Apache-2.0
"""Brain on MRI, without the skull."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.scan import Map, Scan, dilated, eroded, largest, opened, shared, soft_edge


@shared
def head_interior(scan: Scan, rim: float = 0.09) -> Map:
    """The head without its rim (scalp, skull): distance to the air relative to the head's own radius.

    Args:
        scan: MRI or CT of a head.
        rim: width of the rim as a share of the head's equivalent radius' double.
    """
    return soft_edge(_interior(scan, rim))


@shared
def brain(scan: Scan, rim: float = 0.06, neck: float = 0.03) -> Map:
    """Skull-stripped brain: the largest compact part of tissue inside the head's rim.

    Assumes a head with dark bone between scalp and brain (T1, T2, FLAIR). Steps: Otsu inside the head, opening that
    cuts the bridges through the bone, the largest component, regrowth, holes (ventricles, dark lesions) filled.
    A crop inside the brain is brain all over.

    Args:
        scan: MRI of a head, 2D in any plane or 3D.
        rim: least depth below the skin, share of the head's diameter.
        neck: radius of bridges to cut, share of the head's diameter.
    """
    head = body_mask(scan)
    if not head.any():
        return np.zeros_like(scan.values)
    diameter = _diameter(head)
    inside = _interior(scan, rim)
    if not inside.any():
        return soft_edge(head)
    values = scan.values[inside]
    tissue = inside & (scan.values > 0.7 * float(threshold_otsu(values))) if np.ptp(values) > 0 else inside
    core = largest(eroded(tissue, neck * diameter / 2))
    if not core.any():
        core = largest(opened(tissue, 1.0))
    grown = tissue & dilated(core, neck * diameter / 2 + 1)
    return soft_edge(_closed_and_filled(grown, 0.06 * diameter) & inside)


def _interior(scan: Scan, rim: float) -> np.ndarray:
    head = body_mask(scan)
    return scan.once(("interior", rim), lambda: eroded(head, rim * _diameter(head)))


def _diameter(mask: np.ndarray) -> float:
    """Diameter of the disc or ball of a mask's size."""
    size = float(mask.sum())
    return 2 * (size / np.pi) ** 0.5 if mask.ndim == 2 else 2 * (size * 3 / (4 * np.pi)) ** (1 / 3)


def _closed_and_filled(mask: np.ndarray, distance: float) -> np.ndarray:
    # Padding keeps the closing from sticking to the border of the picture.
    pad = int(np.ceil(distance)) + 1
    padded = np.pad(mask, pad)
    padded = padded | eroded(dilated(padded, distance), distance)
    inner = padded[tuple(slice(pad, -pad) for _ in range(mask.ndim))]
    return ndimage.binary_fill_holes(inner)
