# SPDX-License-Identifier: Apache-2.0
"""What an encoder is good for: downstream tasks and how they are measured."""

from custom.tasks.classification import ClassificationRun, FineTuning
from custom.tasks.classification_setup import check_classification, labelled_items, scan_groups
from custom.tasks.classifier import Classifier, build_encoder, encoder_facts
from custom.tasks.collect import Collected, collect
from custom.tasks.linear_probe import LinearProbe
from custom.tasks.results import BestModel

__all__ = [
    "BestModel",
    "ClassificationRun",
    "Classifier",
    "Collected",
    "FineTuning",
    "LinearProbe",
    "build_encoder",
    "check_classification",
    "collect",
    "encoder_facts",
    "labelled_items",
    "scan_groups",
]
