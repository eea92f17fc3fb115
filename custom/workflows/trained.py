# SPDX-License-Identifier: Apache-2.0
"""A trained model on other scans: its task's own config, set up as `model.json` says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from custom.components import component_file
from custom.options import mapping
from custom.records import check_plain
from custom.tasks.record import read_record, record_path

_OF_THE_TRUTH = ("coco",)  # settings that name files of labels, which scans to predict need not have
_BY_USERS_ONLY = ("backbone", "configs")  # say which code may be built: a record cannot
_PARTS = ("segmenter", "detector")  # files of the configs; a file from elsewhere could build anything


class TrainedModel:
    """Runs a part of the config that a model was trained by, with the model's settings.

    Args:
        model: ``model.pt``; ``model.json`` beside it names the config and holds the settings.
        configs: folder of the configs.
        changes: settings for this run (dataset_dir, output_dir, ...); None leaves a setting as it is.
        options: further settings of the task's config, see :func:`custom.options.mapping`; they come last.
        config: another config file instead of the recorded one, for models trained by a config of one's own.

    Raises:
        ValueError: if the model is not given, incomplete or damaged, or its record holds an expression.
    """

    def __init__(
        self,
        model: str | Path | None,
        configs: str | Path,
        changes: Mapping[str, Any],
        options: Mapping[str, Any] | str | None = None,
        config: str | Path | None = None,
    ) -> None:
        if not model:
            raise ValueError(
                "Give --model: the model.pt that classify.yaml, detect.yaml or train.yaml wrote. To find the region "
                "that a prompt names without a trained model, run localize.yaml."
            )
        self.record = read_record(model)
        check_plain(record_path(model), self.record["settings"])
        recorded = {name: value for name, value in self.record["settings"].items() if _is_setting(name)}
        given = {name: value for name, value in changes.items() if value is not None} | mapping(options, "options")
        _refuse_files(model, self.record["config"] if config is None else "", recorded, given)
        self.settings = {**recorded, **given, "model": str(model)}
        self.configs = Path(configs)
        self.config = component_file(configs, str(config or self.record["config"]))

    def run(self, run_id: str) -> list[Any]:
        """Run one id of the task's config.

        Args:
            run_id: "evaluate" or "predict".

        Returns:
            What its expressions returned.
        """
        settings = copy.deepcopy(self.settings)
        if run_id == "predict":
            settings = {name: value for name, value in settings.items() if name not in _OF_THE_TRUTH}
        workflow = ConfigWorkflow(
            config_file=str(self.config),
            meta_file=str(self.configs / "metadata.json"),
            logging_file=False,
            run_id=run_id,
            workflow_type=None,
            **settings,
        )
        workflow.initialize()
        result: list[Any] = workflow.run()
        workflow.finalize()
        return result


def _refuse_files(model: str | Path, config: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError if a record names files outside the configs that its user does not name."""
    if config.endswith(".yaml"):
        raise ValueError(
            f"{record_path(model)} asks for the config {config}. If you trust it, give it: --task_config {config}."
        )
    for name in _PARTS:
        value = str(recorded.get(name, ""))
        if value.endswith(".yaml") and name not in given:
            raise ValueError(
                f"{record_path(model)} asks for the {name} {value}, a file outside the configs. If you trust it, give "
                f'it: --options "{{{name}: {value}}}".'
            )


def _is_setting(name: str) -> bool:
    """Whether a record may set it: a top-level value, no part of the config ("loss#_target_"), not the user's own."""
    return name.isidentifier() and name not in _BY_USERS_ONLY
