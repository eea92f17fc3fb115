# SPDX-License-Identifier: Apache-2.0
"""Figures that results are reported with, and their uncertainty."""

from custom.metrics.classification import (
    FIGURES,
    auroc_per_class,
    bootstrap_intervals,
    classification_figures,
    classification_report,
    confusion_matrix,
    key_score,
)

__all__ = [
    "FIGURES",
    "auroc_per_class",
    "bootstrap_intervals",
    "classification_figures",
    "classification_report",
    "confusion_matrix",
    "key_score",
]
