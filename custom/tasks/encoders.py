# SPDX-License-Identifier: Apache-2.0
"""Where the encoder of a task comes from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from custom.networks import Encoder, EncoderSpec, encoder_record, file_hash, load_encoder

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
