# SPDX-License-Identifier: Apache-2.0
"""Code that loads a published encoder, for each library that can: it stands in the model card."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args

from custom.networks import Encoder, EncoderSpec
from custom.networks.key_maps import NoCounterpartError, torchvision_name
from custom.networks.nnunet import nnunet_residual_encoder

_OWN = """
import torch
from custom.networks import load_encoder

encoder = load_encoder("encoder.safetensors")
maps = encoder(torch.rand({shape}))  # {count} feature maps, from fine to coarse
"""
_MONAI = """
from monai.networks.nets import {name}
from safetensors.torch import load_file

network = {call}
keys = network.load_state_dict(load_file("encoder.safetensors"), strict={strict})
"""
_TORCHVISION = """
from safetensors.torch import load_file
from torchvision.models import {name}

network = {name}(weights=None)
keys = network.load_state_dict(load_file("torchvision.safetensors"), strict=False)
assert keys.missing_keys == ["fc.weight", "fc.bias"] and not keys.unexpected_keys  # the classifier is yours to train
"""
_TIMM = """
import timm
from safetensors.torch import load_file

network = timm.create_model("{name}", pretrained=False, num_classes=0)
network.load_state_dict(load_file("torchvision.safetensors"), strict=True)
"""
_NNUNET = """
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

network = ResidualEncoderUNet(
    input_channels={channels},
    n_stages={stages},
    features_per_stage={features},
    conv_op=nn.Conv{dims}d,
    kernel_sizes={kernels},
    strides={strides},
    n_blocks_per_stage={blocks},
    num_classes={classes},
    n_conv_per_stage_decoder={decoder},
    conv_bias=True,
    norm_op=nn.InstanceNorm{dims}d,
    norm_op_kwargs={{"eps": 1e-5, "affine": True}},
    nonlin=nn.LeakyReLU,
    nonlin_kwargs={{"inplace": True}},
    deep_supervision=True,
)
weights = torch.load("nnunet.pth", weights_only=True)["network_weights"]
network.load_state_dict(weights, strict=True)
"""


def loading_code(encoder: Encoder, spec: EncoderSpec, nnunet_classes: int) -> dict[str, str]:
    """Return code by library, each complete and to be run in the published folder.

    Args:
        encoder: as it was built from ``spec``.
        spec: of the encoder.
        nnunet_classes: of the segmentation layers in ``nnunet.pth``.
    """
    shape = (1, spec.in_channels) + (64,) * spec.spatial_dims
    code = {"This project": _OWN.format(shape=", ".join(map(str, shape)), count=len(encoder.channels))}
    if is_nnunet(spec):
        code["nnU-Net (dynamic-network-architectures)"] = _nnunet(spec, nnunet_classes)
    else:
        code["MONAI"] = _monai(encoder, spec)
    try:
        name = torchvision_name(spec)
        code |= {"torchvision": _TORCHVISION.format(name=name), "timm": _TIMM.format(name=name)}
    except NoCounterpartError:
        pass
    return {library: text.strip() for library, text in code.items()}


def is_nnunet(spec: EncoderSpec) -> bool:
    """Whether the encoder is of nnU-Net's class."""
    return spec.network.endswith(f".{nnunet_residual_encoder.__name__}")


def _monai(encoder: Encoder, spec: EncoderSpec) -> str:
    name, arguments = monai_call(spec)
    with torch.device("meta"):
        wanted = spec.build().network.state_dict()
    return _MONAI.format(
        name=name,
        call=f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})",
        strict=set(wanted) == set(encoder.plain_state_dict()),
    )


def monai_call(spec: EncoderSpec) -> tuple[str, dict[str, Any]]:
    """Return the function of ``monai.networks.nets`` that builds the encoder's network, and its arguments."""
    arguments = dict(spec.arguments)
    name = spec.network.rpartition(".")[2]
    if name == "medicalnet_resnet":
        depth = arguments.pop("depth")
        bias, shortcut = get_medicalnet_pretrained_resnet_args(depth)
        form = {"conv1_t_stride": 2, "feed_forward": False, "bias_downsample": bias, "shortcut_type": shortcut}
        name, arguments = f"resnet{depth}", {**form, **arguments}
    return name, {"spatial_dims": spec.spatial_dims, spec.channel_argument: spec.in_channels, **arguments}


def _nnunet(spec: EncoderSpec, classes: int) -> str:
    arguments = spec.arguments
    stages = len(arguments["features_per_stage"])
    return _NNUNET.format(
        channels=spec.in_channels,
        stages=stages,
        features=list(arguments["features_per_stage"]),
        dims=spec.spatial_dims,
        kernels=arguments.get("kernel_sizes", 3),
        strides=list(arguments["strides"]),
        blocks=list(arguments["n_blocks_per_stage"]),
        classes=classes,
        decoder=[1] * (stages - 1),
    )
