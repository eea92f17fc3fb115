# SPDX-License-Identifier: Apache-2.0
"""Commands to paste, for the last line of a run's log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from datasets import Datalist


def run_command(options: Mapping[str, str]) -> str:
    """Return a call of the bundle with these options, quoted for the shell."""
    return "python -m monai.bundle run " + " ".join(f"--{name} {_quoted(value)}" for name, value in options.items())


def task_command(configs: str, encoder: str, dataset_dir: str, datalist: Datalist) -> str:
    """Return what to do with a pretrained encoder: the task that the labels of its scans are for, if they have any.

    Args:
        configs: folder of the configs.
        encoder: ``encoder.safetensors``.
        dataset_dir: of the scans that it was pretrained on.
        datalist: these scans.
    """
    kinds = {"classify": "label_name", "train": "mask", "detect": "boxes"}
    found = [task for task, key in kinds.items() if any(item.get(key) for item in datalist.items)]
    options = {"config_file": f"{configs}/{(found or list(kinds))[0]}.yaml", "encoder": encoder}
    scans = str(dataset_dir) if found else "<folder of labelled scans>"
    return f"Next: {run_command({**options, 'dataset_dir': scans})}"


def _quoted(value: str) -> str:
    readable = shlex.quote(value) != value and not set(value) & set('"$`\\!')
    return f'"{value}"' if readable else shlex.quote(value)
