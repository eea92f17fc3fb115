# SPDX-License-Identifier: Apache-2.0
"""This repository's encoders and decoders, made from the bundle's own configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.work import EncoderWork, Masks, TrainingStep
from custom.components import load_component
from custom.losses import HiddenCellLoss, MIMTarget
from custom.networks import Encoder, EncoderSpec, MaskedImageModel, Visibility, parameter_groups
from custom.networks.packed.rows import Rows

CONFIGS = Path(__file__).resolve().parents[3] / "bundle" / "configs"
# As in pretrain.yaml.
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-3, 0.05, 5.0


class OurEncoderWork(EncoderWork):
    """The encoder alone.

    Attributes:
        encoder: what is measured.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, lambda image, masks: encode(encoder, image, masks))
        self.encoder = encoder


class OurTrainingStep(TrainingStep):
    """A step as pretrain.yaml makes it.

    Attributes:
        encoder: part of the network.
        decoder: part of the network.
        criterion: the loss.
    """

    def __init__(self, network: MaskedImageModel, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(
            network, lambda image, masks: encode(network.encoder, image, masks), self._loss, optimizer, MAX_NORM
        )
        self.encoder, self.decoder = network.encoder, network.decoder
        self.criterion = HiddenCellLoss(network.cell_size)

    def _loss(self, image: Tensor, masks: Masks) -> Tensor:
        loss: Tensor = self.criterion(self.network(image, masks.host), MIMTarget(image, masks.device))
        return loss


def build(
    case: Case,
    encoder: str,
    execution: str = "auto",
    encoder_options: Mapping[str, Any] | None = None,
    decoder: str = "thin",
    decoder_options: Mapping[str, Any] | None = None,
    optimizer: str = "adamw",
) -> OurEncoderWork | OurTrainingStep:
    """Build the work from names of component files.

    Args:
        case: sizes and device.
        encoder: a file of ``bundle/configs/encoders``.
        execution: as for :class:`custom.networks.Encoder`.
        encoder_options: what is changed in that file.
        decoder: a file of ``bundle/configs/decoders``; only for a whole step, like what follows.
        decoder_options: what is changed in that file.
        optimizer: a file of ``bundle/configs/optimizers``.
    """
    built = encoder_spec(case, encoder, encoder_options).build(execution)
    if case.work == "encoder":
        return OurEncoderWork(built.to(case.device))
    network = MaskedImageModel(
        built, decoder_for(built, decoder, decoder_options, out_channels=case.channels), case.cell_size
    ).to(case.device)
    parameters = parameter_groups(network, WEIGHT_DECAY)
    update = load_component(CONFIGS / "optimizers", optimizer, params=parameters, lr=LEARNING_RATE)
    return OurTrainingStep(network, update)


def encoder_spec(case: Case, encoder: str, options: Mapping[str, Any] | None) -> EncoderSpec:
    """Read an encoder's config."""
    axes = len(case.image_size)
    spec: EncoderSpec = load_component(
        CONFIGS / "encoders", encoder, options, spatial_dims=axes, in_channels=case.channels
    )
    return spec


def decoder_for(encoder: Encoder, name: str, options: Mapping[str, Any] | None, out_channels: int) -> nn.Module:
    """Build a decoder that fits an encoder."""
    decoder: nn.Module = load_component(
        CONFIGS / "decoders",
        name,
        options,
        spatial_dims=encoder.spatial_dims,
        channels=encoder.channels,
        strides=encoder.strides,
        out_channels=out_channels,
    )
    return decoder


def encode(encoder: Encoder, image: Tensor, masks: Masks) -> list[Tensor]:
    """The encoder's maps; of packed ones what was computed."""
    visibility = Visibility(masks.host, encoder.spatial_dims, image.device)
    return [maps.values if isinstance(maps, Rows) else maps for maps in encoder.encode(image, visibility)]
