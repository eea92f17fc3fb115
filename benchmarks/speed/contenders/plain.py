# SPDX-License-Identifier: Apache-2.0
"""The plain dense network of MONAI that hides nothing: what masking is paid with or saved against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.ours import encoder_spec
from benchmarks.speed.contenders.work import EncoderWork


def build(
    case: Case, encoder: str, channels_last: bool = False, encoder_options: Mapping[str, Any] | None = None
) -> EncoderWork:
    """Build the network of one of our encoders, without masks.

    Args:
        case: sizes and device.
        encoder: a file of ``bundle/configs/encoders``.
        channels_last: weights and images channels last in memory; otherwise as torch makes them.
        encoder_options: what is changed in that file.
    """
    if case.work != "encoder":
        raise ValueError("The plain network has no decoder: it is measured as an encoder alone.")
    last = torch.channels_last if len(case.image_size) == 2 else torch.channels_last_3d
    memory_format = last if channels_last else torch.contiguous_format
    network = encoder_spec(case, encoder, encoder_options).build().to(case.device, memory_format=memory_format)
    return EncoderWork(network, lambda image, _: network(image.contiguous(memory_format=memory_format)))
