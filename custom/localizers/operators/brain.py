# SPDX-License-Identifier: Apache-2.0
"""Brain on MRI, without the skull."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from custom.localizers.operators.body import body_mask
from custom.localizers.operators.scan import Map, Scan, dilated, eroded, largest, opened, shared, smooth, soft_edge


@shared
def head_interior(scan: Scan, rim: float = 0.09) -> Map:
    """The head without its rim (scalp, skull): distance to the air relative to the head's own radius.

    Args:
        scan: MRI or CT of a head.
        rim: width of the rim as a share of the head's equivalent radius' double.
    """
    return soft_edge(_interior(scan, rim))


@shared
def brain(
    scan: Scan,
    rim: float = 0.05,
    neck: float = 0.06,
    low: float = 0.55,
    high: float = 2.2,
    keep: float = 0.3,
    reach: float = 1.5,
) -> Map:
    """Skull-stripped brain: compact, even tissue inside the head's rim.

    Assumes a head with dark bone between scalp and brain (T1, T2, FLAIR) and brain as its most even tissue. Steps: the
    brain's grey level from even places, a band around it on the smoothed scan, an opening that cuts the bridges
    through the bone, the large components, regrowth, then closing and filling (ventricles, lesions).
    A crop inside the brain is brain all over.

    Args:
        scan: MRI of a head, 2D in any plane or 3D.
        rim: least depth below the skin, share of the head's diameter.
        neck: width of bridges to cut, share of the head's diameter.
        low: the band begins here, relative to the brain's level above the darkest value.
        high: the band ends here.
        keep: least size of a component relative to the largest.
        reach: how far the brain extends around the centre of the largest disc or ball inside it, in radii of that.
    """
    head = body_mask(scan)
    if not head.any():
        return np.zeros_like(scan.values)
    diameter = _diameter(head)
    inside = _interior(scan, rim)
    if not inside.any():
        return soft_edge(head)
    tissue = inside & _band(scan.values, inside, diameter, low, high)
    tissue &= _around_roomiest_place(tissue, diameter, reach)
    core = _large(eroded(tissue, neck * diameter / 2), keep)
    core = core if core.any() else largest(opened(tissue, 1.0))
    grown = tissue & dilated(core, neck * diameter / 2 + 1)
    return soft_edge(_closed_and_filled(grown, 0.07 * diameter) & inside)


def _around_roomiest_place(tissue: np.ndarray, diameter: float, reach: float) -> np.ndarray:
    """Voxels within ``reach`` radii of the centre of the largest disc (ball) that fits into the tissue.

    Face and neck are cut up by bone and air, so the roomiest place is the brain.
    """
    room = ndimage.distance_transform_edt(_closed_and_filled(tissue, 0.02 * diameter))
    roomy = room >= 0.9 * room.max()
    centre = ndimage.center_of_mass(largest(roomy))
    axes = np.ogrid[tuple(slice(0, size) for size in tissue.shape)]
    squared = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    return np.asarray(squared <= (reach * room.max()) ** 2)


def _band(values: np.ndarray, inside: np.ndarray, diameter: float, low: float, high: float) -> np.ndarray:
    """Voxels near the grey level of the evenest half of the head's interior."""
    darkest = float(np.percentile(values, 1))
    shifted = values - darkest
    mean = smooth(shifted, 0.01 * diameter)
    uneven = np.sqrt(np.maximum(smooth(shifted**2, 0.01 * diameter) - mean**2, 0)) / (mean + 1e-6 + 0.05 * mean.max())
    bright_enough = inside & (mean > 0.5 * np.median(mean[inside]))
    even = bright_enough & (uneven <= np.median(uneven[bright_enough]))
    level = float(np.median(mean[even]))
    fine = smooth(shifted, 0.5)
    return (fine > low * level) & (fine < high * level)


def _large(mask: np.ndarray, keep: float) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(keep * sizes.max(), 1))[labels]


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
