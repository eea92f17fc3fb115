# SPDX-License-Identifier: Apache-2.0
"""The trained model as it goes into a bundle: its record without what belongs to one machine or one data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.preprocessing import BLOCK, Preprocessing, model_contract
from custom.tasks.record import read_record, recorded_settings

PHANTOM = "phantom:"
_KEPT_FACTS = ("seed", "network", "segmenter", "image_size", "patch_size", "num_scans", "encoder_sha256")


def segmentation_record(model: str | Path, configs: str | Path) -> dict[str, Any]:
    """Return the record of a model of ``train.yaml``.

    Args:
        model: its weights.
        configs: folder of the configs, whose parts alone may be packed.

    Raises:
        ValueError: if there is no such model, it was trained by another config, or it is not of this project's parts.
    """
    record = read_record(model)
    if record["config"] != "train" or record["task"] != "segmentation":
        raise ValueError(
            f"{model} was trained by {record['config']}.yaml for {record['task']}; what is packed is a segmentation "
            "model of train.yaml."
        )
    record["settings"] = recorded_settings(model, record["settings"], configs, Path(configs) / "train.yaml")
    _check_classes(model, record["settings"].get("classes"))
    return record


def _check_classes(model: str | Path, classes: Any) -> None:
    """ValueError unless they are codes and names that a config, a list and a page can show."""
    names = [*classes, *classes.values()] if isinstance(classes, dict) else [None]
    wrong = [name for name in names if not (isinstance(name, str) and name and name.isprintable())]
    if wrong:
        raise ValueError(f"{model}: classes must be codes and their names, each in one line; found {wrong[0]!r}.")


def packed_contract(model: str | Path) -> Preprocessing:
    """Return what is done to the scans of a model.

    Raises:
        ValueError: if a transform of one's own scaled their grey levels: a bundle runs by itself.
    """
    contract = model_contract(model) or Preprocessing()
    if contract.intensity.is_custom:
        raise ValueError(
            f"{model}: its grey levels were scaled by {contract.intensity.record['transform']}, and a bundle runs "
            "without code that only a user has. Train with a scheme of plain values: --intensity "
            '"{scheme: percentile}", window, zscore, minmax or none.'
        )
    return contract


def class_names(rules: Mapping[str, str]) -> list[str]:
    """Names of the classes in the order of the network's channels, without the background."""
    return list(dict.fromkeys(rules.values()))


def packed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a record as the bundle's own.

    In the bundle a class has the code that ``metadata.json`` gives it, 1, 2, ...: so predictions can be corrected and
    learnt from. The codes of the data set are kept where the data set is a generated one, which the bundle makes anew.
    """
    trained_on = str(settings["dataset_dir"])
    names = class_names(settings["classes"])
    classes = {str(index): name for index, name in enumerate(names, start=1)}
    is_phantom = trained_on.startswith(PHANTOM)
    of_contract = Preprocessing().settings()  # once they were settings of their own
    return {
        **{name: value for name, value in settings.items() if name not in {*of_contract, "image_size"}},
        "dataset_dir": trained_on if is_phantom else "data",
        "classes": dict(settings["classes"]) if is_phantom else classes,
        "skip_bad": False,
    }


def train_defaults(settings: Mapping[str, Any], contract: Preprocessing) -> dict[str, Any]:
    """Return what ``train.yaml`` of the bundle has as defaults, so that it rebuilds and reads as the model did.

    It has no data set of its own, since MONAI Label names the scans that were annotated. What is learnt takes the place
    of the bundle's weights, as in other bundles; everything else stays below the bundle's folder, wherever it runs.
    """
    kept = packed_settings(settings)
    names = class_names(kept["classes"])
    by_index = dict(enumerate(names, start=1))
    if kept["dataset_dir"].startswith(PHANTOM):
        codes = {_key(code): name for code, name in kept["classes"].items()}
        kept["classes"] = f"${_literal(codes)} if str(@dataset_dir).startswith({PHANTOM!r}) else {_literal(by_index)}"
    else:
        kept["classes"] = by_index
    dropped = ("recorded_encoder", "seed", "resamples", "batch_size")
    places = {
        "dataset_dir": None,
        "output_dir": "$@bundle_root + '/eval/training'",
        "publish_to": "$@bundle_root + '/models'",
        "learning_rate": "$0.001 if @dataset_dir else 0.0001",  # MONAI Label goes on from the bundle's weights
    }
    kept = {key: value for key, value in kept.items() if key not in dropped}
    return {**kept, **contract.settings(), "backbone": "trained", **places}


def inference_defaults(settings: Mapping[str, Any], contract: Preprocessing) -> dict[str, Any]:
    """Return what ``inference.yaml`` of the bundle has as defaults."""
    kept = packed_settings(settings)
    names = ["spatial_dims", "window_overlap", "dataset_dir", "segmenter", "segmenter_options"]
    return {
        **{name: kept[name] for name in names},
        **contract.settings(),
        "class_names": class_names(kept["classes"]),
    }


def packed_record(record: Mapping[str, Any], contract: Preprocessing) -> dict[str, Any]:
    """Return the record for ``models/model.json``."""
    facts = {key: record.get("facts", {})[key] for key in _KEPT_FACTS if key in record.get("facts", {})}
    kept = ("task", "config", "decisions", "versions", "sha256")
    return {
        **{key: record[key] for key in kept if key in record},
        "settings": packed_settings(record["settings"]),
        BLOCK: contract.record(),
        "facts": facts,
    }


def encoder_component(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's encoder as a file of ``configs/encoders``."""
    spec = settings["recorded_encoder"]
    kept = ("network", "channel_argument", "arguments", "features")
    return {"_target_": "custom.networks.EncoderSpec", **{key: spec[key] for key in kept}}


def _literal(names: Mapping[int | str, str]) -> str:
    """Names as an expression writes them: a sign of references within a name stays a part of it."""
    return repr(dict(names)).replace("@", r"\x40")


def _key(code: str) -> int | str:
    return int(code) if code.isdigit() else code
