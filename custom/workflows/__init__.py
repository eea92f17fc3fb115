# SPDX-License-Identifier: Apache-2.0
"""What the bundle's workflows need beside MONAI's engines."""

from custom.workflows.errors import explain_mistakes, show_root_causes
from custom.workflows.gate import GateRun
from custom.workflows.heed import heed_gate
from custom.workflows.localizers import load_localizer
from custom.workflows.output import prepare_output_dir, release_output_dir
from custom.workflows.pretraining import MIMPrepareBatch, choose_prompts
from custom.workflows.trained import TrainedModel

__all__ = [
    "GateRun",
    "MIMPrepareBatch",
    "TrainedModel",
    "choose_prompts",
    "explain_mistakes",
    "heed_gate",
    "load_localizer",
    "prepare_output_dir",
    "release_output_dir",
    "show_root_causes",
]
