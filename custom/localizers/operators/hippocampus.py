# SPDX-License-Identifier: Apache-2.0
"""The hippocampus on T1 volumes: a curved tube at its usual place, and the grey level of grey matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from custom.localizers.operators.brain import brain
from custom.localizers.operators.scan import Map, Scan, logistic, shared, smooth, unit

# From tail (back) to head (front) of the left hippocampus, in the box of 35 x 50 x 36 mm around it, as shares of the
# box: position along y, then x and z of the middle, then half widths along x and z. Means over 100 volumes of the
# train split of Task04 of the Medical Segmentation Decathlon (CC BY-SA 4.0), to two digits.
TUBE = (
    (0.12, 0.52, 0.71, 0.14, 0.11), (0.18, 0.50, 0.68, 0.18, 0.13), (0.23, 0.45, 0.62, 0.19, 0.12),
    (0.33, 0.39, 0.53, 0.19, 0.11), (0.43, 0.35, 0.47, 0.18, 0.11), (0.53, 0.35, 0.42, 0.19, 0.11),
    (0.63, 0.42, 0.38, 0.24, 0.14), (0.73, 0.47, 0.33, 0.26, 0.15), (0.83, 0.54, 0.27, 0.21, 0.12),
    (0.88, 0.58, 0.25, 0.13, 0.09),
)  # fmt: skip
# The same box in the brain's bounding box (first and last share along x, y, z), from the place of the left hippocampus
# in the MNI152 template; the right one is its mirror image.
LEFT_BOX = ((0.175, 0.425), (0.33, 0.61), (0.22, 0.48))
LEVEL = 0.32  # of the hippocampus, between the 10th and 90th percentile of the box
# Log-odds a unit of squared distance from the tube's middle (in half widths) and from the level, from a logistic
# regression on the same volumes; offset.
WEIGHTS = (-2.4, -16.0)
OFFSET = 3.0  # a little more than the regression's 2.7: best Dice


@shared
def hippocampus(scan: Scan, threshold: float = 0.0) -> Map:
    """The hippocampus on both sides of a whole head, or the one that a crop is centred on.

    Assumes a T1 volume in RAS+. A volume with tissue along its faces is taken for a crop of about 35 x 50 x 36 mm
    around one hippocampus, of the side on which the tube fits better; otherwise the brain's bounding box places both
    (not measured: no whole heads with masks were at hand). Place counts most: in a crop of anything else it finds a
    tube as well. Pictures have no known plane: nothing is found.

    Args:
        scan: MRI.
        threshold: log-odds to subtract: higher values give smaller regions.
    """
    values = scan.values
    if values.ndim != 3 or min(values.shape) < 8:
        return np.zeros_like(values)
    whole = (slice(None),) * 3
    if _is_crop(values):
        sides = [_in_box(values, whole, mirrored) for mirrored in (False, True)]
        return logistic(max(sides, key=lambda odds: float(np.maximum(odds, 0).sum())) - threshold)
    inside = brain(scan) > 0.5
    found = np.zeros_like(values)
    for mirrored in (False, True):
        box = _box(inside, mirrored)
        if box is not None:
            found[box] = np.maximum(found[box], logistic(_in_box(values, box, mirrored) - threshold))
    return found


def _is_crop(values: np.ndarray) -> bool:
    """Whether tissue, not air, lies along the volume's faces."""
    grey = unit(values)
    faces = [np.take(grey, index, axis=axis).ravel() for axis in range(3) for index in (0, -1)]
    return float(np.median(np.concatenate(faces))) > 0.15


def _box(inside: np.ndarray, mirrored: bool) -> tuple[slice, ...] | None:
    """Where one hippocampus is expected in a brain; None if the brain is too small for it."""
    shares: Sequence[tuple[float, float]] = LEFT_BOX
    if mirrored:
        (first, last), *others = LEFT_BOX
        shares = ((1 - last, 1 - first), *others)
    box = []
    for axis, (first, last) in enumerate(shares):
        line = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if line.size < 24:
            return None
        low, size = line[0], line[-1] + 1 - line[0]
        box.append(slice(round(low + first * size), round(low + last * size)))
    return tuple(box)


def _in_box(values: np.ndarray, box: tuple[slice, ...], mirrored: bool) -> np.ndarray:
    """Log-odds in the box around one hippocampus."""
    part = values[box]
    bottom, top = np.percentile(part, [10, 90])
    level = smooth((part - bottom) / max(top - bottom, 1e-6), 0.5)
    unlike = np.clip((level - LEVEL) ** 2, 0, 0.5)
    return OFFSET + WEIGHTS[0] * np.minimum(_from_tube(part.shape, mirrored), 9) + WEIGHTS[1] * unlike


def _from_tube(shape: tuple[int, ...], mirrored: bool) -> np.ndarray:
    """Squared distance from the tube's middle in half widths; it ends at its first and last point."""
    x, y, z = (((np.arange(size) + 0.5) / size) for size in shape)
    along, *curves = np.array(TUBE).T
    centre_x, centre_z, half_x, half_z = (np.interp(y, along, curve)[None, :, None] for curve in curves)
    across = (1 - x if mirrored else x)[:, None, None]
    beyond = np.maximum(along[0] - y, 0) + np.maximum(y - along[-1], 0)
    ends = (beyond / 0.03)[None, :, None] ** 2
    return ((across - centre_x) / half_x) ** 2 + ((z[None, None, :] - centre_z) / half_z) ** 2 + ends
