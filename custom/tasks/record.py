# SPDX-License-Identifier: Apache-2.0
"""`model.json` beside `model.pt`: what rebuilds a trained network, and what was decided on the validation scans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.networks import file_hash
from custom.tasks.results import write_json


def write_record(model: str | Path, content: Mapping[str, Any]) -> Path:
    """Write the record of a trained network.

    Args:
        model: the weights, ``model.pt``; their SHA-256 is added.
        content: JSON-able: ``task``, ``config`` (name of the config file), ``settings`` (what to give to that config so
            that it builds the same network and reads scans in the same way) and ``decisions``.

    Returns:
        The path of the record: the model's, ending in ``.json``.
    """
    return write_json(record_path(model), {**content, "sha256": file_hash(model)})


def read_record(model: str | Path) -> dict[str, Any]:
    """Return the record of a trained network.

    Raises:
        ValueError: if the weights or the record are missing or damaged, or were written by different runs.
    """
    path = record_path(model)
    if not Path(model).is_file() or not path.is_file():
        names = f"{Path(model).name} and {path.name}"
        raise ValueError(
            f"{model}: a trained model is two files, {names}; classify.yaml, detect.yaml and train.yaml write both at "
            "the end of a run. One is missing."
        )
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        record["task"], record["config"], record["settings"], record["decisions"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a trained model ({error!r}). Train again.") from error
    if record.get("sha256") != file_hash(model):
        raise ValueError(f"{model} is not the file that {path.name} describes: they were written by different runs.")
    return record


def record_path(model: str | Path) -> Path:
    """Where the record of a model lies."""
    return Path(model).with_suffix(".json")
