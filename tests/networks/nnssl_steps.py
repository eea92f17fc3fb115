# SPDX-License-Identifier: Apache-2.0
"""A few real steps of nnssl's SparK on random data: ``python nnssl_steps.py CHECKOUT FILE`` writes its checkpoint.

In a process of its own, for nnssl keeps the mask in a module.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn


def main(checkout: str, file: str) -> None:
    """Train, and save what nnssl's trainer saves of the weights."""
    sys.path.insert(0, str(Path(checkout) / "src"))
    from nnssl.architectures import spark_utils
    from nnssl.architectures.spark_model import SparK3D
    from nnssl.training.loss.spark_loss import SparkLoss

    torch.manual_seed(0)
    network = ResidualEncoderUNet(
        1, 3, [8, 16, 32], nn.Conv3d, 3, [[1] * 3, [2] * 3, [2] * 3], [1, 2, 2], 1, [1, 1], conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False,
    )  # fmt: skip
    network.encoder = spark_utils.convert_to_spark_cnn(network.encoder)
    model, criterion = SparK3D(network), SparkLoss()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.99, nesterov=True)
    for _ in range(3):
        image, visible = torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1, 4, 4, 4)
        visible[:, :, ::2] = 1
        spark_utils._cur_active = visible
        optimizer.zero_grad()
        criterion(prediction=model(image), groundtruth=image, mask=visible).backward()
        optimizer.step()
    torch.save({"network_weights": network.state_dict(), "spark_weights": model.state_dict()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
