# SPDX-License-Identifier: Apache-2.0
"""Where the encoder of a task comes from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.components import load_component
from custom.networks import Encoder, EncoderSpec, encoder_record, file_hash, load_encoder
from custom.networks.weights import TRUSTED_PACKAGES

logger = logging.getLogger(__name__)


def encoder_facts(path: str | Path | None) -> dict[str, Any]:
    """Return what is known of a pretrained encoder: its JSON record, with the hash of the weights as they are.

    Args:
        path: the ``.safetensors`` file; None (from scratch) gives an empty dictionary.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    if path is None:
        return {}
    record = encoder_record(path)
    actual = file_hash(path)
    if record.get("sha256", actual) != actual:
        logger.warning("%s is not the file that its JSON record describes: were they written by different runs?", path)
    return {**record, "sha256": actual}


def encoder_spec(
    recorded: Mapping[str, Any] | None,
    path: str | Path | None,
    folder: str | Path,
    name: str,
    spatial_dims: int,
    in_channels: int,
) -> EncoderSpec:
    """Decide which network the encoder of a task is.

    The first that is known: what a trained model's record says, what lies beside the pretrained weights, the backbone.

    Args:
        recorded: ``EncoderSpec.as_dict()`` out of a trained model's ``model.json``; None: no trained model is loaded.
        path: pretrained weights, or None. Weights from elsewhere have no JSON file beside them.
        folder: of the backbones' files, ``bundle/configs/encoders``.
        name: of a backbone.
        spatial_dims: 2 or 3, of the backbone.
        in_channels: channels of the image, of the backbone.

    Raises:
        ValueError: if the recorded network is outside the trusted packages, or there is no such backbone.
    """
    if recorded is None and path is not None and Path(path).with_suffix(".json").is_file():
        recorded = encoder_record(path)["encoder"]
    if recorded is None:
        spec: EncoderSpec = load_component(folder, name, spatial_dims=spatial_dims, in_channels=in_channels)
        return spec
    spec = EncoderSpec(**recorded)
    if not spec.network.startswith(TRUSTED_PACKAGES):
        raise ValueError(f"The recorded encoder {spec.network!r} is outside {list(TRUSTED_PACKAGES)}.")
    return spec


def build_encoder(path: str | Path | None, spec: EncoderSpec) -> Encoder:
    """Return the pretrained encoder of a file, or a fresh one from a specification where there is none.

    Args:
        path: the ``.safetensors`` file, or None for training from scratch.
        spec: what to build from scratch.
    """
    if path is None:
        logger.info("No --encoder: %s starts from random weights.", spec.network)
        return spec.build()
    return load_encoder(path)
