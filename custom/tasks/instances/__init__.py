# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation in 2D: boxes and masks of what a picture or slice shows."""

from custom.tasks.instances.dictionary import OutlinesToMasksd
from custom.tasks.instances.mask_rcnn import MaskDetector

__all__ = ["MaskDetector", "OutlinesToMasksd"]
