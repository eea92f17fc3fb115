# SPDX-License-Identifier: Apache-2.0
"""The bundle's workflows, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

CONFIGS = Path("bundle/configs")


def make_workflow(config: str, **overrides: Any) -> ConfigWorkflow:
    """Return a workflow of the bundle, initialized, as `python -m monai.bundle run` would make it."""
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / f"{config}.yaml"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **overrides,
    )
    workflow.initialize()
    return workflow
