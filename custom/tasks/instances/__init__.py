# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation in 2D: boxes and masks of what a picture or slice shows."""

from custom.tasks.instances.mask_rcnn import MaskDetector
from custom.tasks.instances.task import InstanceTask
from custom.tasks.instances.transforms import GridMasksd, ScanMasksd

__all__ = ["GridMasksd", "InstanceTask", "MaskDetector", "ScanMasksd"]
