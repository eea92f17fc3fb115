# SPDX-License-Identifier: Apache-2.0
"""The body against the air around it, for MONAI's ``CropForegroundd``."""

from __future__ import annotations

import numpy as np
import torch
from monai.utils import convert_to_numpy
from scipy import ndimage
from torch import Tensor

WINDOW = 5  # voxels; averages the noise of air away and widens a bright edge by two, well within the crop's margin


def body_voxels(image: Tensor, threshold: float = 0.05, speck: float = 0.001, least: float = 0.02) -> Tensor:
    """Voxels that may be body, as ``select_fn`` of MONAI's ``CropForegroundd``.

    Made to err on the side of the scan: what is cut away is lost, what is kept costs a little time. A voxel counts as
    body if the mean of its surroundings (5 voxels a side) exceeds ``threshold``. Pieces smaller than ``speck`` are
    noise or letters and do not count. Only whole planes without body are cut, so dark lungs within a body are safe, and
    a scan that shows no air (a crop of a CT, a radiograph) stays whole. If next to nothing is left, the rule does not
    understand the scan, and all of it counts as body: an empty scan, a few bright spots (an angiogram).

    Where tissue spans orders of magnitude (some PET, surface coils), dim parts of the body may count as air: lower the
    threshold, or do not crop.

    Args:
        image: ``[C, *spatial]``, scaled so that air is near 0 and the brightest tissue near 1.
        threshold: intensity up to which a voxel may be air.
        speck: least share of the scan's voxels that a piece of the body has.
        least: least share of the scan's voxels that a body has.

    Returns:
        Boolean ``[1, *spatial]``, never empty.

    Raises:
        ValueError: if ``threshold`` is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold must not be negative (an intensity), received {threshold}.")
    brightest: np.ndarray = convert_to_numpy(image).astype(np.float32, copy=False).max(axis=0)
    bright = ndimage.uniform_filter(brightest, WINDOW, mode="nearest") > threshold
    pieces, _ = ndimage.label(bright)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    body = (sizes >= speck * pieces.size)[pieces] & bright
    return torch.from_numpy(body if body.mean() >= least else np.ones_like(body))[None]
