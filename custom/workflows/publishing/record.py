# SPDX-License-Identifier: Apache-2.0
"""What of a pretraining run's record may be told to everybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.components import component_file, component_names
from custom.handlers.history import read_history

# Neither the folders of scans and region maps nor anything that a later version may add.
_PUBLIC = (
    "encoder", "sha256", "prompts", "masking", "mask_options", "region_threshold", "localizer", "gate", "cell_size",
    "skip_empty", "preprocessing", "crop_to_body", "air_threshold", "image_size", "spacing", "seed", "epochs",
    "versions",
)  # fmt: skip
_COMPONENTS = ("masking", "localizer")
_RATIOS = ("hidden_ratio", "region_hidden_ratio", "background_hidden_ratio", "region_share")


def public_record(record: Mapping[str, Any], dataset: str | None) -> dict[str, Any]:
    """Return the record without what belongs to one machine or one hospital.

    Args:
        record: of ``encoder.json``.
        dataset: the name by which the data may be called; None: the phantoms' own, if they were it, or none.
    """
    public = {name: record[name] for name in _PUBLIC if name in record}
    for name in _COMPONENTS:  # a component's own file is given by its path
        if str(public.get(name)).endswith(".yaml"):
            public[name] = Path(public[name]).stem
    used = str(record.get("dataset", ""))
    told = dataset or (used if used.startswith("phantom:") else None)
    return {**public, **({"dataset": told} if told else {})}


def realised_ratios(encoder: Path, epochs: int | None) -> dict[str, float]:
    """Return the shares of cells hidden in the last epoch, by ``history.csv`` beside the encoder; empty if unknown."""
    rows = read_history(encoder.with_name("history.csv"))
    if not rows or rows[-1]["epoch"] != str(epochs):
        return {}
    return {name: float(rows[-1][name]) for name in _RATIOS if rows[-1].get(name)}


def strategy_settings(folder: str | Path, name: str | None) -> dict[str, Any]:
    """Return what a file of ``bundle/configs/masking`` sets; empty if there is no such file, above all for a path."""
    is_known = name in component_names(folder)
    content = ConfigParser.load_config_file(str(component_file(folder, name))) if is_known else {}
    return {key: value for key, value in content.items() if not key.startswith("_") and value is not None}
