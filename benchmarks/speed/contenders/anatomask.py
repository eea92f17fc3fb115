# SPDX-License-Identifier: Apache-2.0
"""The 3D SparK of AnatoMask (https://github.com/ricklisz/AnatoMask) with STU-Net-B, as its script makes it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.peer import import_from
from benchmarks.speed.contenders.work import EncoderWork, Masks, TrainingStep

FOLDER = Path("nnunetv2/training/nnUNetTrainer/variants/pretrain")
WIDTHS = [32, 64, 128, 256, 512, 512]
BETAS, WEIGHT_DECAY, MAX_NORM, LEARNING_RATE = (0.9, 0.999), 1e-5, 12.0, 2e-4


def build(case: Case, path: str, site: str, width: int = 512) -> EncoderWork | TrainingStep:
    """Build AnatoMask's SparK.

    Args:
        case: sizes and device.
        path: its checkout.
        site: folder of the packages that it needs.
        width: of its decoder.
    """
    import_from(site, Path(path) / FOLDER)
    import encoder3D as sparse  # noqa: N813 - the peer's name
    from decoder3D import LightDecoder
    from spark3D import SparK
    from STUNet_head import STUNet
    from utils.lr_control import get_param_groups

    pools = [[2, 2, 2]] * 4 + [[1, 1, 1]]
    head = STUNet(
        case.channels, 1, depth=[1] * 6, dims=WIDTHS, pool_op_kernel_sizes=pools, conv_kernel_sizes=[[3, 3, 3]] * 6
    )
    built = sparse.SparseEncoder(head, input_size=tuple(case.image_size), sbn=False)

    def encode(image: Tensor, masks: Masks) -> list[Tensor]:
        sparse._cur_active = masks.device
        scale = built.downsample_ratio
        shown = masks.device
        for axis in (2, 3, 4):
            shown = shown.repeat_interleave(scale, axis)
        return list(built(image * shown))

    if case.work == "encoder":
        return EncoderWork(built.to(case.device), encode)
    decoder = LightDecoder(built.downsample_ratio, sbn=False, width=width, out_channel=case.channels)
    model = SparK(built, decoder, mask_ratio=case.masked, densify_norm="in").to(case.device)
    groups = get_param_groups(model, nowd_keys={"cls_token", "pos_embed", "mask_token", "gamma"})
    update = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    return TrainingStep(model, encode, lambda image, masks: model(image, masks.device), update, MAX_NORM)
