# SPDX-License-Identifier: Apache-2.0
"""Mask strategies: from the coverage of a region to the cells that a network may see."""

from custom.masking.base import DEFAULT_THRESHOLD, MaskSample, MaskStrategy
from custom.masking.content import content_cells
from custom.masking.dictionary import RandRegionMaskd, mask_info
from custom.masking.random import RandomMasking
from custom.masking.region import RegionMasking, RegionMatchedRandom

__all__ = [
    "DEFAULT_THRESHOLD",
    "MaskSample",
    "MaskStrategy",
    "RandRegionMaskd",
    "RandomMasking",
    "RegionMasking",
    "RegionMatchedRandom",
    "content_cells",
    "mask_info",
]
