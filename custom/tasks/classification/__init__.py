# SPDX-License-Identifier: Apache-2.0
"""Classification: one class per scan or several labels, by fine-tuning or a linear probe."""

from custom.tasks.classification.classifier import Classifier
from custom.tasks.classification.collect import Collected, collect
from custom.tasks.classification.labels import ScanLabels, labelled_items, new_items
from custom.tasks.classification.linear_probe import LinearProbe
from custom.tasks.classification.run import ClassificationRun
from custom.tasks.classification.setup import check_classification
from custom.tasks.classification.task import ClassificationTask
from custom.tasks.classification.weights import class_weights, classification_loss

__all__ = [
    "ClassificationRun",
    "ClassificationTask",
    "Classifier",
    "Collected",
    "LinearProbe",
    "ScanLabels",
    "check_classification",
    "class_weights",
    "classification_loss",
    "collect",
    "labelled_items",
    "new_items",
]
