# SPDX-License-Identifier: Apache-2.0
"""Detection: boxes around what a scan shows, in 2D and 3D."""

from custom.tasks.detection.pyramid import FeaturePyramid
from custom.tasks.detection.retinanet import RetinaDetector, ShapedAnchors

__all__ = ["FeaturePyramid", "RetinaDetector", "ShapedAnchors"]
