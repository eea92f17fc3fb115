# SPDX-License-Identifier: Apache-2.0
"""An encoder with a linear head, and where the encoder comes from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from custom.networks import Encoder, EncoderSpec, encoder_record, file_hash, load_encoder

logger = logging.getLogger(__name__)


class Classifier(nn.Module):
    """Global average pooling over an encoder's coarsest feature map, and a linear layer.

    Args:
        encoder: returns a list of feature maps ``[B, C, *spatial]``, from fine to coarse.
        num_classes: number of classes K.
        channels: C of the coarsest map.
        dropout: probability of dropping a pooled feature, in [0, 1).
        freeze: keep the encoder as it is: no gradients, and normalisation with its stored statistics.
    """

    def __init__(
        self, encoder: nn.Module, num_classes: int, channels: int, dropout: float = 0.0, freeze: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.freeze = freeze
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        if freeze:
            encoder.requires_grad_(False)
            encoder.eval()

    def features(self, image: Tensor) -> Tensor:
        """Return the pooled features ``[B, C]`` of images ``[B, channels, *spatial]``."""
        return self.encoder(image)[-1].flatten(2).mean(dim=2)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``[B, K]`` of images ``[B, channels, *spatial]``."""
        return self.head(self.dropout(self.features(image)))

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self


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
