# SPDX-License-Identifier: Apache-2.0
"""`model.json` beside `model.pt`: what rebuilds a trained network, and what was decided on the validation scans."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.components import component_names
from custom.networks import file_hash
from custom.records import read_json, recorded_name, recorded_options
from custom.tasks.encoders import trusted_spec
from custom.tasks.results import write_json

logger = logging.getLogger(__name__)

# Say which code may be built, or what is read and written: a record cannot.
_BY_USERS_ONLY = {"backbone", "bundle_root", "checkpoint_dir", "configs", "encoder", "intensity", "model", "output_dir"}
# Settings that configs kept once.
_EARLIER = ("channels", "spacing", "frame", "crop_to_body", "air_threshold", "image_size", "patch_size")
_PARTS = {"segmenter": "segmenters", "detector": "detectors"}  # setting -> folder of the parts' files


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
        ValueError: if the weights or the record are missing or damaged, or were written by different runs; or if the
            record holds something that the config parser would evaluate, see :mod:`custom.records`.
    """
    path = record_path(model)
    if not Path(model).is_file() or not path.is_file():
        names = f"{Path(model).name} and {path.name}"
        raise ValueError(
            f"{model}: a trained model is two files, {names}; classify.yaml, detect.yaml and train.yaml write both at "
            "the end of a run. One is missing."
        )
    record = read_json(path, "Train again.", told_only=("facts",))
    if missing := {"task", "config", "settings", "decisions"} - record.keys():
        raise ValueError(f"{path}: not the record of a trained model (no {', '.join(sorted(missing))}). Train again.")
    record["settings"] = _with_options(path, record["settings"])
    if record.get("sha256") != file_hash(model):
        raise ValueError(f"{model} is not the file that {path.name} describes: they were written by different runs.")
    return record


def record_path(model: str | Path) -> Path:
    """Where the record of a model lies."""
    return Path(model).with_suffix(".json")


def recorded_settings(
    model: str | Path, settings: Mapping[str, Any], configs: str | Path, config: str | Path, given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the settings of a record as they may be built: those that the config keeps, with parts of this project.

    Args:
        model: the weights, for the message.
        settings: of :func:`read_record`.
        configs: folder of the configs, with the parts' files below it.
        config: file of the task's config, whose ``model_settings`` says what a record may set.
        given: settings that the user gives, who alone decides on files and networks of his own.

    Raises:
        ValueError: if the record asks for a part or a network that is none of this project's, or of trusted packages.
    """
    record = record_path(model)
    settings = _kept(record, settings, config)
    for name, folder in _PARTS.items():
        if name in settings and name not in given:
            known = component_names(Path(configs) / folder)
            remedy = f'If you trust it, give it: --options "{{{name}: {settings[name]}}}".'
            recorded_name(record, name, settings[name], known, remedy)
    if settings.get("recorded_encoder") is None or "backbone" in given:
        return dict(settings)
    return {**settings, "recorded_encoder": trusted_spec(record, settings["recorded_encoder"]).as_dict()}


def _kept(record: Path, settings: Mapping[str, Any], config: str | Path) -> dict[str, Any]:
    """The settings that a config keeps, without those on which only its user decides."""
    kept = ConfigParser.load_config_file(str(config)).get("model_settings")
    may_give = {*kept, *_EARLIER} if isinstance(kept, Mapping) else {name for name in settings if name.isidentifier()}
    left_out = sorted(set(settings) - (may_give - _BY_USERS_ONLY))
    if left_out:
        logger.warning("%s: left out, since no record decides on it: %s.", record, ", ".join(left_out))
    return {name: value for name, value in settings.items() if name not in left_out}


def _with_options(record: Path, settings: Any) -> dict[str, Any]:
    """The settings, with options of components as mappings of plain values."""
    if not isinstance(settings, dict):
        raise ValueError(f"{record}: settings must be a mapping, not {settings!r}. Train again.")
    options = [name for name in settings if name.endswith("options")]
    return {**settings, **{name: recorded_options(record, name, settings[name]) for name in options}}
