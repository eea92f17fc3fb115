# SPDX-License-Identifier: Apache-2.0
"""A trained model on other scans: its task's own config, set up as `model.json` says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from monai.bundle import ConfigWorkflow

from custom.components import component_file
from custom.options import mapping
from custom.preprocessing import Preprocessing, model_contract
from custom.records import recorded_name
from custom.tasks.record import read_record, record_path, recorded_settings

_OF_THE_TRUTH = ("coco",)  # settings that name files of labels, which scans to predict need not have


class TrainedModel:
    """Runs a part of the config that a model was trained by, with the model's settings.

    Args:
        model: ``model.pt``; ``model.json`` beside it names the config and holds the settings.
        configs: folder of the configs.
        changes: settings for this run (dataset_dir, output_dir, ...); None leaves a setting as it is.
        options: further settings of the task's config, see :func:`custom.options.mapping`; they come last.
        config: another config file instead of the recorded one, for models trained by a config of one's own.

    Raises:
        ValueError: if the model is not given, incomplete or damaged, or its record holds an expression or asks for
            anything but parts of this project, see :mod:`custom.records`.
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
        self.record, self.configs = read_record(model), Path(configs)
        given = {name: value for name, value in changes.items() if value is not None} | mapping(options, "options")
        self.given = frozenset(given)
        self.config = component_file(configs, str(config or _recorded_config(model, self.record["config"], configs)))
        recorded = recorded_settings(model, self.record["settings"], configs, self.config, self.given)
        self.settings = {**recorded, **given, "model": str(model)}

    def _check_files_of_the_truth(self) -> None:
        """Refuse files of labels outside the data set that nobody but the record names."""
        for name in _OF_THE_TRUTH:
            value = self.settings.get(name)
            if name in self.given or value is None:
                continue
            path = PurePath(str(value))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"{record_path(self.settings['model'])} asks for {name} {value}, outside the data set. If you "
                    f'trust it, give it: --options "{{{name}: {value}}}".'
                )

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the scans that it was trained on."""
        return model_contract(self.settings["model"]) or Preprocessing()

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
        else:
            self._check_files_of_the_truth()
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


def _recorded_config(model: str | Path, config: Any, configs: str | Path) -> str:
    """The name of the config that a record asks for, one of the folder; ValueError if it is none."""
    known = {file.stem for file in Path(configs).glob("*.yaml")}
    remedy = f"If you trust it, give it: --task_config {config}."
    return recorded_name(record_path(model), "config", config, known, remedy)
