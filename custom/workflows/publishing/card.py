# SPDX-License-Identifier: Apache-2.0
"""The model card: README.md with the header that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml

from custom.networks import Encoder, EncoderSpec
from custom.preprocessing import Preprocessing

_TEMPLATE = Path(__file__).parent / "templates" / "README.md"
_TAGS = ("medical-imaging", "masked-image-modeling", "self-supervised-learning", "text-guided-masking", "sparse-cnn")
_REVERSED = """
`{files}`: other libraries count axes the other way round. These kernels are turned accordingly, so that the networks
take what is usual there, {usual}, and give the same features, axes reversed.
"""
_USUAL = {
    "torchvision.safetensors": "upright pictures `[3, row, column]` (grey in all three channels)",
    "nnunet.pth": "arrays `[C, Z, Y, X]` as SimpleITK reads them (RAS+ scans, or close to it)",
}


def model_card(
    title: str,
    license_id: str,
    tags: Sequence[str],
    encoder: Encoder,
    spec: EncoderSpec,
    record: Mapping[str, Any],
    contract: Preprocessing,
    ratios: Mapping[str, float],
    strategy: Mapping[str, Any],
    code: Mapping[str, str],
    files: Mapping[str, str],
) -> str:
    """Return the text of the card.

    Args:
        title: its heading.
        license_id: of the weights, as the hub writes it: ``apache-2.0``.
        tags: further tags for the hub.
        encoder: as it was loaded.
        spec: how it was built.
        record: of the pretraining run, see :func:`custom.workflows.publishing.record.public_record`.
        contract: what was done to scans.
        ratios: realised ones.
        strategy: settings of the masking strategy that its file has.
        code: by library, that loads it.
        files: what each file is.
    """
    header = {
        "license": license_id,
        "library_name": "monai",
        "pipeline_tag": "image-feature-extraction",
        "tags": [*_TAGS, f"{spec.spatial_dims}d", *tags],
    }
    values = contract.intensity.value_range
    words = {
        "title": title,
        "scans": _scans(record, spec.spatial_dims),
        "control": "**This encoder is a control: what was hidden was drawn at random.**" if _is_control(record) else "",
        "network": f"{spec.network.rpartition('.')[2]}({_arguments(spec.arguments)})",
        "input": f"[B, {spec.in_channels}, {', '.join('XYZ'[: spec.spatial_dims])}]",
        "values": f"{values[0]:g} to {values[1]:g}" if values else "of no fixed range",
        "maps": ", ".join(
            f"{name}: {channels} channels at stride {stride}"
            for name, channels, stride in zip(spec.features, encoder.channels, encoder.strides, strict=True)
        ),
        "parameters": f"{sum(value.numel() for value in encoder.plain_state_dict().values()) / 1e6:.2f} million",
        "facts": _rows(_facts(record, contract, ratios, strategy)),
        "preparation": contract.words(),
        "reversed": _reversed(files),
        "code": "\n".join(f"### {library}\n\n```python\n{text}\n```\n" for library, text in code.items()),
        "files": _rows({f"`{name}`": what for name, what in files.items()}),
        "measured": "No downstream figures come with these files: measure on your own task.",
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(words)
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{text}"


def _scans(record: Mapping[str, Any], spatial_dims: int) -> str:
    name = record.get("dataset", "")
    kind = "pictures" if spatial_dims == 2 else "volumes"
    if name.startswith("phantom:"):
        return f"generated {kind} (`{name}`; **no real scan was seen: these weights show that the code works**)"
    return f"{kind} ({name})" if name else f"{kind} (a data set that is not named)"


def _is_control(record: Mapping[str, Any]) -> bool:
    at_random = (record.get("gate") or {}).get("masked_at_random_instead", False)
    return at_random or not record.get("prompts") or "random" in str(record.get("masking"))


def _facts(
    record: Mapping[str, Any], contract: Preprocessing, ratios: Mapping[str, float], strategy: Mapping[str, Any]
) -> dict[str, str]:
    gate = record.get("gate") or {}
    versions = record.get("versions") or {}
    realised = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in ratios.items())
    told = {
        "prompts": ", ".join(f'"{prompt}"' for prompt in record.get("prompts") or []),
        "localizer": record.get("localizer"),
        "was the prompt heeded?": ", ".join(f'"{prompt}": {said}' for prompt, said in gate.get("verdicts", {}).items()),
        "masking": record.get("masking"),
        "its settings": _arguments({**strategy, **(record.get("mask_options") or {})}),
        "masked at random instead": "yes, because the gate found the prompt not heeded"
        if gate.get("masked_at_random_instead")
        else "",
        "realised in the last epoch": realised,
        "cells": f"{record['cell_size']} voxels a side" if record.get("cell_size") else "",
        "image size": " x ".join(map(str, contract.image_size or [])),
        "epochs": record.get("epochs"),
        "seed": record.get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: str(value) for name, value in told.items() if value not in (None, "")}


def _reversed(files: Mapping[str, str]) -> str:
    found = [name for name in _USUAL if name in files]
    text = _REVERSED.format(files="`, `".join(found), usual="; ".join(_USUAL[name] for name in found))
    return text if found else ""


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items())


def _rows(cells: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())
