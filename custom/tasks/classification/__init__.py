# SPDX-License-Identifier: Apache-2.0
"""Classification: fine-tuning or a linear probe."""

from custom.tasks.classification.classifier import Classifier
from custom.tasks.classification.collect import Collected, collect
from custom.tasks.classification.linear_probe import LinearProbe
from custom.tasks.classification.run import ClassificationRun
from custom.tasks.classification.setup import check_classification, labelled_items, scan_groups

__all__ = [
    "ClassificationRun",
    "Classifier",
    "Collected",
    "LinearProbe",
    "check_classification",
    "collect",
    "labelled_items",
    "scan_groups",
]
