# SPDX-License-Identifier: Apache-2.0
"""SparK (https://github.com/keyu-tian/SparK) as its pretraining makes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.peer import import_from
from benchmarks.speed.contenders.work import EncoderWork, Masks, TrainingStep

# Defaults of its command line for ResNets.
BETAS, WEIGHT_DECAY, MAX_NORM, LEARNING_RATE = (0.9, 0.95), 0.04, 5.0, 2e-4


def build(
    case: Case, path: str, site: str, network: str = "resnet50", width: int = 768, optimizer: str = "lamb"
) -> EncoderWork | TrainingStep:
    """Build SparK.

    Args:
        case: sizes and device.
        path: its checkout.
        site: folder of the packages that it needs.
        network: a name that it knows.
        width: of its decoder.
        optimizer: ``lamb`` (its own) or ``adamw``.
    """
    import_from(site, Path(path) / "pretrain")
    import encoder as sparse
    from decoder import LightDecoder
    from models import build_sparse_encoder
    from spark import SparK

    built = build_sparse_encoder(network, input_size=case.image_size[0])

    def encode(image: Tensor, masks: Masks) -> list[Tensor]:
        sparse._cur_active = masks.device
        scale = built.downsample_raito
        shown = masks.device.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return list(built(image * shown))

    if case.work == "encoder":
        return EncoderWork(built.to(case.device), encode)
    decoder = LightDecoder(built.downsample_raito, sbn=False, width=width)
    model = SparK(built, decoder, mask_ratio=case.masked).to(case.device)
    update, max_norm = make_optimizer(optimizer, model)
    return TrainingStep(model, encode, lambda image, masks: model(image, masks.device), update, max_norm)


def make_optimizer(name: str, model: nn.Module) -> tuple[torch.optim.Optimizer, float | None]:
    """Its optimizer, and the norm to which gradients are clipped outside of it."""
    from utils.lamb import TheSameAsTimmLAMB
    from utils.lr_control import get_param_groups

    groups = get_param_groups(model, nowd_keys={"cls_token", "pos_embed", "mask_token", "gamma"})
    for group in groups:
        group["weight_decay"] = WEIGHT_DECAY * group["weight_decay_scale"]
    kinds = {
        "adamw": (torch.optim.AdamW, MAX_NORM),
        "lamb": (partial(TheSameAsTimmLAMB, max_grad_norm=MAX_NORM), None),
    }
    kind, max_norm = kinds[name]
    return kind(groups, lr=LEARNING_RATE, betas=BETAS), max_norm
