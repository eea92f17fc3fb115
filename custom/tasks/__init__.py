# SPDX-License-Identifier: Apache-2.0
"""What an encoder is good for: downstream tasks and how they are measured. Each task has a room of its own."""

from custom.tasks.encoders import build_encoder, encoder_facts, encoder_spec
from custom.tasks.fine_tuning import FineTuning
from custom.tasks.images import check_cells, check_images
from custom.tasks.labelled import few_labelled, scan_groups
from custom.tasks.results import BestModel
from custom.tasks.task_run import Evaluation, Prediction, TaskRun

__all__ = [
    "BestModel",
    "Evaluation",
    "FineTuning",
    "Prediction",
    "TaskRun",
    "build_encoder",
    "check_cells",
    "check_images",
    "encoder_facts",
    "encoder_spec",
    "few_labelled",
    "scan_groups",
]
