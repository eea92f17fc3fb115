# SPDX-License-Identifier: Apache-2.0
"""From the scan's grid to another and back."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate linearly to another size, voxel areas aligned; smoothed first where the size shrinks."""
    scale = [old / new for old, new in zip(values.shape, shape, strict=True)]
    offset = [(each - 1) / 2 for each in scale]
    values = values.astype(np.float32)
    if max(scale) > 1:
        values = ndimage.gaussian_filter(values, [max(0, (each - 1) / 2) for each in scale], mode="nearest")
    return ndimage.affine_transform(values, scale, offset, output_shape=shape, order=1, mode="nearest")
