# SPDX-License-Identifier: Apache-2.0
"""Where the encoder of a task, or of a further pretraining, comes from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from custom.components import load_component
from custom.networks import Encoder, EncoderSpec, encoder_record, file_hash, load_weights
from custom.networks.encoder import Execution
from custom.networks.weights import is_own_encoder, match_encoder, recorded_spec
from custom.records import UntrustedNetworkError

logger = logging.getLogger(__name__)


def encoder_facts(path: str | Path | None, spec: EncoderSpec | None = None) -> dict[str, Any]:
    """Return what is known of a pretrained encoder.

    Args:
        path: its weights; None (from scratch) gives an empty dictionary.
        spec: the network that weights from elsewhere are for, see :func:`encoder_spec`; what this project wrote knows.

    Returns:
        The JSON record beside the weights, if this project wrote them; ``encoder`` (the network), ``sha256`` (of the
        file as it is) and ``encoder_keys`` (how its keys fit, :meth:`custom.networks.KeyReport.as_dict`).

    Raises:
        ValueError: if a file is missing or damaged, holds weights of another network, or names a network that is not
            trusted and is not that of ``spec``.
    """
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: no such file. --encoder takes encoder.safetensors of pretrain.yaml, or other weights."
        )
    if spec is None or is_own_encoder(path):
        record = encoder_record(path)
        spec = trusted_spec(Path(path).with_suffix(".json"), record["encoder"], spec.network if spec else None)
    else:
        record = {"encoder": spec.as_dict()}
    actual = file_hash(path)
    if record.get("sha256", actual) != actual:
        logger.warning("%s is not the file that its JSON record describes: were they written by different runs?", path)
    return {**record, "sha256": actual, "encoder_keys": match_encoder(path, spec).as_dict()}


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
        name: of a backbone. A recorded network outside the trusted packages is built only if this backbone is the same.
        spatial_dims: 2 or 3, of the backbone.
        in_channels: channels of the image, of the backbone.

    Raises:
        ValueError: if the recorded network is neither of the trusted packages nor the backbone's, or there is no such
            backbone.
    """
    source = "model.json"
    if recorded is None and path is not None and is_own_encoder(path):
        source, recorded = str(Path(path).with_suffix(".json")), encoder_record(path)["encoder"]
    if recorded is not None:
        with suppress(UntrustedNetworkError):  # unless the backbone is the same
            return recorded_spec(source, recorded)
    backbone: EncoderSpec = load_component(folder, name, spatial_dims=spatial_dims, in_channels=in_channels)
    return backbone if recorded is None else trusted_spec(source, recorded, backbone.network)


def build_encoder(path: str | Path | None, spec: EncoderSpec, execution: Execution = "auto") -> Encoder:
    """Return the encoder of a task: with the weights of a file, or fresh random ones where there is none.

    Args:
        path: ``encoder.safetensors`` of this project, or weights from elsewhere (:mod:`custom.networks.foreign`); None
            for training from scratch.
        spec: the network, see :func:`encoder_spec`. It alone decides what is built, not a file beside the weights.
        execution: as for :class:`custom.networks.Encoder`.

    Raises:
        ValueError: if the file is missing or damaged, or holds weights of another network.
    """
    encoder = spec.build(execution)
    if path is None:
        logger.info("No file of an encoder: %s is built with random weights.", spec.network)
    else:
        load_weights(encoder, path)
    return encoder


def trusted_spec(source: str | Path, recorded: Mapping[str, Any], named: str | None = None) -> EncoderSpec:
    """Return a recorded network, if its package is trusted or the user named the same class.

    Args:
        source: the record, for the message.
        recorded: ``EncoderSpec.as_dict()``, as recorded.
        named: dotted name of a network that the user named.

    Raises:
        ValueError: as :func:`custom.networks.weights.recorded_spec`; says how to name a network of one's own.
    """
    try:
        return recorded_spec(source, recorded, named=named)
    except UntrustedNetworkError as error:
        raise ValueError(
            f"{error} A record never decides alone which code is run. If it is a network of your own, name its file as "
            "well: --backbone mine/network.yaml; with evaluate.yaml, inference.yaml and export.yaml --options "
            '"{backbone: mine/network.yaml}".'
        ) from error
