# SPDX-License-Identifier: Apache-2.0
"""Segmentation, 2D and 3D: networks on an encoder, classes of label maps, predictions on the scans' own voxels."""

from custom.tasks.segmentation.classes import EncodeLabelsd, LabelClasses, codes_in, label_classes
from custom.tasks.segmentation.components import Components, components
from custom.tasks.segmentation.geometry import ScanGrid, resampled
from custom.tasks.segmentation.items import check_segmentation, new_items, segmentation_items
from custom.tasks.segmentation.networks import PyramidSegmenter, UNetSegmenter
from custom.tasks.segmentation.saving import save_predictions, write_label_map
from custom.tasks.segmentation.task import Segmentation, SegmentationCase

__all__ = [
    "Components",
    "EncodeLabelsd",
    "LabelClasses",
    "PyramidSegmenter",
    "ScanGrid",
    "Segmentation",
    "SegmentationCase",
    "UNetSegmenter",
    "check_segmentation",
    "codes_in",
    "components",
    "label_classes",
    "new_items",
    "resampled",
    "save_predictions",
    "segmentation_items",
    "write_label_map",
]
