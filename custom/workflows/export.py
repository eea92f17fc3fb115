# SPDX-License-Identifier: Apache-2.0
"""A trained model for other programs: rebuilt from its record, exported and compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from custom.preprocessing import BLOCK
from custom.tasks.export import SUFFIXES, export_model
from custom.tasks.results import BestModel, write_json
from custom.workflows.trained import TrainedModel

_NO_SCANS = {
    "_target_": "datasets.Datalist",
    "root": "",
    "layout": "none",
    "items": [],
    "classes": [],
    "spatial_dims": "@spatial_dims",
}


class ModelExport:
    """Export of a trained model, for ``export.yaml``.

    Args:
        trained: the model.
        file: where to write; None: beside the model.
        format: see :func:`custom.tasks.export.export_model`.
        image_size: of the example; None: the size at which the model was trained.
        tolerance: see :func:`custom.tasks.export.export_model`.
    """

    def __init__(
        self,
        trained: TrainedModel,
        file: str | Path | None = None,
        format: str = "torchscript",
        image_size: Sequence[int] | None = None,
        tolerance: float = 1e-4,
    ) -> None:
        model = Path(trained.settings["model"])
        self.trained, self.model = trained, model
        self.file = model.with_suffix(SUFFIXES.get(format, "")) if file is None else Path(file)
        self.format, self.tolerance = format, tolerance
        self.contract = trained.preprocessing
        self.size = list(image_size or self.contract.patch_size or self.contract.image_size or ())

    def run(self) -> dict[str, Any]:
        """Write the file, and beside it a JSON file with what it takes and gives and how scans become its input."""
        network = self._network()
        shape = (2, self.contract.channels, *self.size)
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        facts = export_model(network, example, self.file, self.format, self.tolerance)
        kept = ("task", "settings", "decisions", "sha256")
        record = {**{key: self.trained.record[key] for key in kept}, BLOCK: self.contract.record()}
        write_json(self.file.with_name(f"{self.file.name}.json"), {**facts, "image_size": self.size, "model": record})
        return facts

    def _network(self) -> nn.Module:
        parser = ConfigParser(ConfigParser.load_config_file(str(self.trained.config)))
        parser.update(copy.deepcopy(self.trained.settings))
        parser["datalist"] = _NO_SCANS  # the network is rebuilt from its record: nothing is read, nothing must be there
        if "contract" in parser and not self.contract.intensity.is_custom:
            parser.get_parsed_content("contract")  # refuses options that differ from the record
        network: nn.Module = parser.get_parsed_content("network_def")
        BestModel(self.model, network).restore()
        return network
