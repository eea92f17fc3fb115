# SPDX-License-Identifier: Apache-2.0
"""Bundles of MONAI's Model Zoo, which need nothing of this repository: a trained model, a text-prompted localizer."""

from custom.workflows.packing.localization import LocalizationPacking
from custom.workflows.packing.pack import BundlePacking
from custom.workflows.packing.segmentation import SegmentationPacking

__all__ = ["BundlePacking", "LocalizationPacking", "SegmentationPacking"]
