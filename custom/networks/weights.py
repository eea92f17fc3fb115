# SPDX-License-Identifier: Apache-2.0
"""Encoder weights on disk: `encoder.safetensors` under plain MONAI names, and a JSON file that rebuilds the encoder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from custom.files import write_atomically
from custom.finite import check_finite
from custom.networks.encoder import Encoder, EncoderSpec
from custom.networks.foreign import KeyReport, check_match, match_weights, read_tensors
from custom.records import UntrustedNetworkError, check_plain, read_json, recorded_arguments, recorded_network

logger = logging.getLogger(__name__)

# A JSON file from elsewhere names the network to build: one name of this package, or one of these functions.
TRUSTED_PACKAGES = (
    "monai.networks.nets",
    "custom.networks.foreign.medicalnet_resnet",
    "custom.networks.nnunet.nnunet_residual_encoder",
)
_TOLD_ONLY = ("dataset", "prompts", "region_dir", "gate", "settings_history")


def save_encoder(path: str | Path, encoder: Encoder, spec: EncoderSpec, info: Mapping[str, Any] | None = None) -> Path:
    """Write the weights to ``path`` (safetensors) and everything that rebuilds the encoder to ``path`` with ``.json``.

    Args:
        path: file to write; its folder is created.
        encoder: the encoder.
        spec: how it was built.
        info: further JSON-able facts to keep (prompt, masking, image size, versions).

    Returns:
        The path of the weights. Each file is complete or absent: both are written under another name and moved.
    """
    path = Path(path)
    weights = {name: value.detach().contiguous().cpu() for name, value in encoder.plain_state_dict().items()}
    write_atomically(path, lambda target: save_file(weights, target, metadata={"format": "pt"}))
    record = {"encoder": spec.as_dict(), "sha256": file_hash(path), **(info or {})}
    write_atomically(path.with_suffix(".json"), lambda target: target.write_text(json.dumps(record, indent=2) + "\n"))
    return path


def load_encoder(path: str | Path, trusted_packages: Sequence[str] = TRUSTED_PACKAGES) -> Encoder:
    """Rebuild an encoder from its weights and the JSON file beside them; log which keys matched.

    Args:
        path: the ``.safetensors`` file.
        trusted_packages: from which the JSON file may name a network, see :func:`custom.records.recorded_network`.

    Raises:
        ValueError: if a file is missing or damaged, the network is not trusted, or no key matches.
    """
    record = encoder_record(path)
    try:
        spec = recorded_spec(Path(path).with_suffix(".json"), record["encoder"], trusted_packages)
    except UntrustedNetworkError as error:
        raise ValueError(
            f"{error} If it is a network of your own, load it with load_encoder(path, trusted_packages=[...])."
        ) from error
    encoder = spec.build()
    load_weights(encoder, path)
    return encoder


def encoder_record(path: str | Path) -> dict[str, Any]:
    """Return the JSON record beside an encoder's weights; ValueError if it is missing, damaged or has expressions."""
    record_path = Path(path).with_suffix(".json")
    if not Path(path).is_file() or not record_path.is_file():
        names = f"{Path(path).name} and {record_path.name}"
        raise ValueError(f"{path}: an encoder is two files, {names}; pretrain.yaml writes both. One is missing.")
    record = read_json(record_path, "Run pretrain.yaml again.", told_only=_TOLD_ONLY)
    if not isinstance(record.get("encoder"), dict) or "network" not in record["encoder"]:
        raise ValueError(f"{record_path}: not the record of an encoder (no encoder.network). Run pretrain.yaml again.")
    return record


def recorded_spec(
    record: str | Path,
    values: Mapping[str, Any],
    trusted_packages: Sequence[str] = TRUSTED_PACKAGES,
    named: str | None = None,
) -> EncoderSpec:
    """Return a recorded network as it may be built.

    Args:
        record: path of the record, for the message.
        values: ``EncoderSpec.as_dict()``, as recorded.
        trusted_packages: from which the network may come, see :func:`custom.records.recorded_network`.
        named: dotted name of a network that the user named, who alone decides on code of his own.

    Raises:
        UntrustedNetworkError: if the network is neither trusted nor the one that is named.
        ValueError: if a value is missing, unknown or of another type; the network does not take its arguments, or would
            read weights from elsewhere.
    """
    check_plain(record, values, "encoder")
    try:
        spec = EncoderSpec(**values)
        _check_types(spec)
    except TypeError as error:
        raise ValueError(f"{record}: encoder: {error}. Run pretrain.yaml again.") from error
    is_named = named is not None and spec.network == named
    build = spec.locate() if is_named else recorded_network(record, spec.network, trusted_packages)
    safe = recorded_arguments(record, build, spec.keywords())
    own = {name for name, value in spec.own_keywords().items() if safe[name] == value} - set(spec.arguments)
    return replace(spec, arguments={name: value for name, value in safe.items() if name not in own})


def _check_types(spec: EncoderSpec) -> None:
    """TypeError if a value cannot be of a specification that :meth:`EncoderSpec.as_dict` wrote."""
    wrong = [] if spec.spatial_dims in (2, 3) else ["spatial_dims"]
    wrong += [] if type(spec.in_channels) is int and spec.in_channels > 0 else ["in_channels"]
    features = spec.features if isinstance(spec.features, list) else [None]
    wrong += ["features"] if not all(isinstance(each, str) for each in features) else []
    wrong += ["arguments"] if not isinstance(spec.arguments, dict) else []
    names = [spec.channel_argument, *spec.arguments]
    wrong += [str(name) for name in names if not isinstance(name, str) or not name.isidentifier()]
    if wrong:
        raise TypeError(f"{', '.join(wrong)}: not what a specification holds")


def is_own_encoder(path: str | Path) -> bool:
    """Whether a file of weights is one that :func:`save_encoder` wrote: its JSON record lies beside it."""
    return Path(path).suffix == ".safetensors" and Path(path).with_suffix(".json").is_file()


def load_weights(encoder: Encoder, path: str | Path) -> KeyReport:
    """Load weights by name into an encoder, leaving out what does not fit, and report it.

    Args:
        encoder: changed in place.
        path: weights of this project or from elsewhere, see :mod:`custom.networks.foreign`.

    Returns:
        Matched, missing and unexpected keys (a key of another shape counts as unexpected).

    Raises:
        ValueError: if the file cannot be read, holds too few of the encoder's weights, or some that are not finite.
    """
    found = read_tensors(path)
    fitting, report = match_weights(found, encoder.plain_state_dict(), encoder.in_channels)
    check_match(path, report, found, type(encoder.network).__name__)
    check_finite(path, fitting)
    encoder.network.load_state_dict(fitting, strict=False)
    logger.info("%s: %s", path, report)
    return report


def match_encoder(path: str | Path, spec: EncoderSpec) -> KeyReport:
    """Report how weights fit an encoder, without loading them; raises as :func:`load_weights`."""
    with torch.device("meta"):
        encoder = spec.build()
    found = read_tensors(path)
    fitting, report = match_weights(found, encoder.plain_state_dict(), encoder.in_channels)
    check_match(path, report, found, type(encoder.network).__name__)
    check_finite(path, fitting)
    return report


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
