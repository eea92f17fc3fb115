# SPDX-License-Identifier: Apache-2.0
"""An encoder with a linear head."""

from __future__ import annotations

from torch import Tensor, nn


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
