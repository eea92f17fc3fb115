# SPDX-License-Identifier: Apache-2.0
"""The 3D SparK of nnssl (https://github.com/MIC-DKFZ/nnssl) with ResEnc-L, as its trainer makes it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.peer import import_from
from benchmarks.speed.contenders.work import EncoderWork, Masks, TrainingStep

MOMENTUM, WEIGHT_DECAY, MAX_NORM, LEARNING_RATE = 0.99, 3e-5, 12.0, 1e-2


def build(case: Case, path: str, site: str) -> EncoderWork | TrainingStep:
    """Build nnssl's SparK3D.

    Args:
        case: sizes and device.
        path: its checkout.
        site: folder of the packages that it needs.
    """
    import_from(site, Path(path) / "src")
    from nnssl.architectures import spark_utils
    from nnssl.architectures.architecture_registry import get_res_enc_l
    from nnssl.architectures.spark_model import SparK3D
    from nnssl.training.loss.spark_loss import SparkLoss

    architecture = get_res_enc_l(case.channels, case.channels, deep_supervision=False)
    architecture.encoder = spark_utils.convert_to_spark_cnn(architecture.encoder)

    def encode(image: Tensor, masks: Masks) -> list[Tensor]:
        spark_utils._cur_active = masks.device.float()
        return list(architecture.encoder(image))

    if case.work == "encoder":
        return EncoderWork(architecture.encoder.to(case.device), encode)
    model, criterion = SparK3D(architecture).to(case.device), SparkLoss()

    def loss(image: Tensor, masks: Masks) -> Tensor:
        visible = masks.device.float()
        spark_utils._cur_active = visible
        value: Tensor = criterion(prediction=model(image), groundtruth=image, mask=visible)
        return value

    update = torch.optim.SGD(
        model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM, nesterov=True
    )
    return TrainingStep(model, encode, loss, update, MAX_NORM)
