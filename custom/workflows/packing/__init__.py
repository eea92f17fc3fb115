# SPDX-License-Identifier: Apache-2.0
"""A trained segmentation model as a bundle of MONAI's Model Zoo, which needs nothing of this repository."""

from custom.workflows.packing.pack import BundlePacking

__all__ = ["BundlePacking"]
