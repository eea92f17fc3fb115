# SPDX-License-Identifier: Apache-2.0
"""Detection: boxes around what a scan shows, in 2D and 3D."""

from custom.tasks.detection.anchors import fit_anchors, fit_anchors_to_dataset, size_limits
from custom.tasks.detection.objects import any_scans, labelled_scans, object_classes, object_kind
from custom.tasks.detection.pyramid import FeaturePyramid
from custom.tasks.detection.results import BoxCase
from custom.tasks.detection.retinanet import RetinaDetector, ShapedAnchors
from custom.tasks.detection.setup import build_detector, check_detection, pyramid_strides
from custom.tasks.detection.task import DetectionTask, box_case
from custom.tasks.detection.training import BoxScore, DetectionLoss, DetectionPrepareBatch, keep_apart
from custom.tasks.detection.transforms import GridBoxesd, ScanObjectsd

__all__ = [
    "BoxCase",
    "BoxScore",
    "DetectionLoss",
    "DetectionPrepareBatch",
    "DetectionTask",
    "FeaturePyramid",
    "GridBoxesd",
    "RetinaDetector",
    "ScanObjectsd",
    "ShapedAnchors",
    "any_scans",
    "box_case",
    "build_detector",
    "check_detection",
    "fit_anchors",
    "fit_anchors_to_dataset",
    "keep_apart",
    "labelled_scans",
    "object_classes",
    "object_kind",
    "pyramid_strides",
    "size_limits",
]
