# SPDX-License-Identifier: Apache-2.0
"""`pack.yaml`: a trained segmentation model as a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from custom.metrics.segmentation import figure_text
from custom.preprocessing import Preprocessing
from custom.workflows.packing.metadata import segmentation_metadata
from custom.workflows.packing.pack import BundlePacking, Content
from custom.workflows.packing.trained import (
    class_names,
    encoder_component,
    inference_defaults,
    packed_contract,
    packed_record,
    segmentation_record,
    train_defaults,
)


class SegmentationPacking(BundlePacking):
    """Pack a model of ``train.yaml`` as a segmentation bundle, see :class:`BundlePacking`.

    Args:
        model: ``model.pt`` of a finished run, with ``model.json`` beside it.
        options: of every bundle.
    """

    kind = "segmentation"
    left_out = frozenset({"inference.yaml", "evaluate.yaml"})

    def __init__(self, model: str | Path, **options: Any) -> None:
        super().__init__(**options)
        self.model = Path(model)

    def content(self, base: Mapping[str, Any], temporary: Path) -> Content:
        """Return what the record of the model says."""
        record = segmentation_record(self.model, self.bundle_root / "configs")
        contract = packed_contract(self.model)
        settings = record["settings"]
        names = class_names(settings["classes"])
        metadata = segmentation_metadata(base, settings["spatial_dims"], contract, names, self.modality, self.changes)
        trained = yaml.safe_dump(encoder_component(settings), sort_keys=False)
        return Content(
            metadata=metadata,
            words=segmentation_words(record, contract, metadata, self.model.with_name("metrics.json")),
            weights=self.model,
            defaults={
                "train.yaml": train_defaults(settings, contract),
                "inference.yaml": inference_defaults(settings, contract),
                "export.yaml": {"model": "$@bundle_root + '/models/model.pt'"},
            },
            texts={
                "configs/encoders/trained.yaml": f"# The encoder of models/model.pt.\n{trained}",
                "models/model.json": json.dumps(packed_record(record, contract), indent=2) + "\n",
            },
        )


def segmentation_words(
    record: Mapping[str, Any], contract: Preprocessing, metadata: Mapping[str, Any], metrics: Path
) -> dict[str, str]:
    """Return the words that the template of ``docs/README.md`` leaves open.

    Args:
        record: of the trained model.
        contract: what is done to its scans.
        metadata: of the bundle.
        metrics: ``metrics.json`` of the run that trained it; without it no figures are told.
    """
    settings, facts = record["settings"], record.get("facts", {})
    image = metadata["network_data_format"]["inputs"]["image"]
    labels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    is_phantom = str(settings["dataset_dir"]).startswith("phantom:")
    spec = settings["recorded_encoder"]
    network = spec["network"].rpartition(".")[2]
    size = " x ".join(str(side) for side in image["spatial_shape"])
    return {
        "tags": f"Segmentation, {image['modality']}, "
        f"{settings['spatial_dims']}D, self-supervised, masked image modelling, text prompt",
        "network": f"{network} ({_arguments(spec['arguments'])}), decoder {settings['segmenter']}",
        "pretrained": "The encoder was pretrained." if facts.get("encoder_sha256") else "It was trained from scratch.",
        "input": f"{image['num_channels']} channel(s), {size} voxels{_range(image['value_range'])}",
        "labels": ", ".join(f"{code} {label}" for code, label in labels.items()),
        "data": _data(facts, is_phantom),
        "performance": _performance(metrics, is_phantom),
        "preparation": contract.words(),
        "whole": "windows of that size slide over the scan"
        if contract.patch_size
        else "scans are scaled by one factor to fit into that size, the rest is padded",
    }


def _range(values: Sequence[float]) -> str:
    return f", values from {values[0]:g} to {values[1]:g}" if values else ""


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in arguments.items()) or "MONAI's defaults"


def _data(facts: Mapping[str, Any], is_phantom: bool) -> str:
    scans = facts.get("num_scans", {})
    counts = ", ".join(f"{split} {scans[split]:d}" for split in ("train", "val", "test") if split in scans)
    kind = (
        "Generated scans (brain MRI or chest phantoms), which the bundle makes anew on first use: **no real scan was "
        "seen, the weights show that the bundle works and are of no other use.**"
        if is_phantom
        else "A data set of the one who trained the model; it is not part of the bundle. Put yours where "
        "`--dataset_dir` says."
    )
    return f"{kind} Scans: {counts}." if counts else kind


def _performance(metrics: Path, is_phantom: bool) -> str:
    if not metrics.is_file():
        return "No figures were packed."
    test = json.loads(metrics.read_text()).get("test", {})
    if not test.get("num_scans"):
        return "No figures were packed."
    named = (("dice", "Dice"), ("nsd", "NSD"), ("hd95", "HD95"))
    unit = {"hd95": f" {test.get('distance_unit', '')}"}
    figures = ", ".join(f"{label} {figure_text(test, key, unit.get(key, ''))}" for key, label in named if key in test)
    where = "generated scans" if is_phantom else "scans of its own test split"
    return f"Mean over {test['num_scans']:d} {where}, on the voxels of the scans: {figures}."
