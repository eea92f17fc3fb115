# SPDX-License-Identifier: Apache-2.0
"""Encoder weights on disk: `encoder.safetensors` under plain MONAI names, and a JSON file that rebuilds the encoder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from custom.files import write_atomically
from custom.networks.encoder import Encoder, EncoderSpec
from custom.networks.foreign import KeyReport, check_match, match_weights, read_tensors

logger = logging.getLogger(__name__)

# A JSON file from elsewhere names the class to build: only these packages are trusted to be built from it.
TRUSTED_PACKAGES = (
    "monai.networks.nets.",
    "custom.networks.foreign.medicalnet_resnet",
    "custom.networks.nnunet.nnunet_residual_encoder",
)


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
        trusted_packages: prefixes of the dotted names that may be built from the JSON file.

    Raises:
        ValueError: if a file is missing or damaged, the network is not trusted, or no key matches.
    """
    spec = EncoderSpec(**encoder_record(path)["encoder"])
    if not spec.network.startswith(tuple(trusted_packages)):
        raise ValueError(
            f"{path}: its JSON file asks to build {spec.network!r}, which is outside {list(trusted_packages)}. If you "
            "trust the file, load it with load_encoder(path, trusted_packages=[...])."
        )
    encoder = spec.build()
    load_weights(encoder, path)
    return encoder


def encoder_record(path: str | Path) -> dict[str, Any]:
    """Return the JSON record beside an encoder's weights; ValueError if it is missing, damaged or has expressions."""
    record_path = Path(path).with_suffix(".json")
    if not Path(path).is_file() or not record_path.is_file():
        names = f"{Path(path).name} and {record_path.name}"
        raise ValueError(f"{path}: an encoder is two files, {names}; pretrain.yaml writes both. One is missing.")
    try:
        record: dict[str, Any] = json.loads(record_path.read_text())
        record["encoder"]["network"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{record_path}: not the record of an encoder ({error}). Run pretrain.yaml again.") from error
    check_plain(record_path, record["encoder"])
    return record


def check_plain(record: Path, value: Any) -> None:
    """Refuse what the config parser would evaluate or build: a record holds values, it never decides what is run.

    Args:
        record: its path, for the message.
        value: what was read from it.

    Raises:
        ValueError: if there is an expression or a ``_target_`` in it.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(record, key)
            check_plain(record, each)
    elif isinstance(value, list | tuple):
        for each in value:
            check_plain(record, each)
    elif isinstance(value, str) and value.startswith(("$", "%", "@", "_target_")):
        raise ValueError(
            f"{record}: {value!r} is an expression, but a record holds plain values only. Do not trust it."
        )


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
        ValueError: if the file cannot be read, or holds too few of the encoder's weights.
    """
    found = read_tensors(path)
    fitting, report = match_weights(found, encoder.plain_state_dict(), encoder.in_channels)
    check_match(path, report, found, type(encoder.network).__name__)
    encoder.network.load_state_dict(fitting, strict=False)
    logger.info("%s: %s", path, report)
    return report


def match_encoder(path: str | Path, spec: EncoderSpec) -> KeyReport:
    """Report how weights fit an encoder, without loading them; raises as :func:`load_weights`."""
    with torch.device("meta"):
        encoder = spec.build()
    found = read_tensors(path)
    _, report = match_weights(found, encoder.plain_state_dict(), encoder.in_channels)
    check_match(path, report, found, type(encoder.network).__name__)
    return report


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
