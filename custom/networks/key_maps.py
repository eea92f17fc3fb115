# SPDX-License-Identifier: Apache-2.0
"""Encoder weights under the names and in the form of other libraries; what comes in is :mod:`custom.networks.foreign`.

``docs/encoder_weights.md`` has the table. Names are MONAI's, up to a prefix (:data:`PREFIXES`). What changes:

- **Axes.** torchvision, timm and nnU-Net count them the other way round: :func:`custom.networks.foreign.reverse_axes`.
- **Channels.** torchvision's and timm's networks take colour: the first convolution of a grey encoder is spread.
- **Biases of shortcuts.** MONAI's ResNets may have one before the normalisation, others never:
  :func:`fold_shortcut_biases`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor

from custom.networks.encoder import EncoderSpec
from custom.networks.foreign import NNUNET_PREFIX, reverse_axes, spread_channels
from custom.networks.nnunet import nnunet_network, nnunet_residual_encoder

# What stands before our names in the state dict of a network that has the encoder in it.
PREFIXES = {
    "monai": "",
    "monai.FlexibleUNet": "encoder.",
    "torchvision": "",
    "timm": "",
    "nnunet": "encoder.",
}
TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# Arguments of MONAI's ResNet that make torchvision's.
_TORCHVISION_FORM = {
    "conv1_t_size": 7,
    "conv1_t_stride": 2,
    "no_max_pool": False,
    "shortcut_type": "B",
    "widen_factor": 1.0,
    "norm": "batch",
    "act": ("relu", {"inplace": True}),
}
_SHORTCUT_BIAS = ".downsample.0.bias"
_NNUNET = f"{nnunet_residual_encoder.__module__}.{nnunet_residual_encoder.__name__}"


class NoCounterpartError(ValueError):
    """The other library has no network that computes what this encoder does."""


def torchvision_name(spec: EncoderSpec) -> str:
    """Return the function of ``torchvision.models`` that builds the same network, ``resnet18``; timm has it, too.

    Raises:
        NoCounterpartError: says why there is none.
    """
    package, _, name = spec.network.rpartition(".")
    if package != "monai.networks.nets" or name not in TORCHVISION_RESNETS:
        raise NoCounterpartError(f"torchvision has no {spec.network}, only {', '.join(TORCHVISION_RESNETS)}.")
    if spec.spatial_dims != 2 or spec.in_channels not in (1, 3):
        raise NoCounterpartError(
            f"torchvision's ResNets take pictures of three channels, this one {spec.spatial_dims}D images of "
            f"{spec.in_channels}."
        )
    defaults = {key: each.default for key, each in inspect.signature(nets.ResNet).parameters.items()}
    for key, wanted in _TORCHVISION_FORM.items():
        value = spec.arguments.get(key, defaults[key])
        if value != wanted:
            raise NoCounterpartError(f"torchvision's {name} has {key} {wanted}, this one {value}.")
    return name


def to_torchvision(weights: Mapping[str, Tensor], spec: EncoderSpec) -> dict[str, Tensor]:
    """Return the weights of ``torchvision.models.resnet18`` and the like, without the classifier ``fc``.

    In evaluation mode the network gives, for an upright picture ``[B, 3, row, column]``, the maps that the encoder
    gives for its transpose ``[B, C, column, row]``, transposed; grey is shown in all three channels.

    Args:
        weights: of :meth:`custom.networks.Encoder.plain_state_dict`, all four stages.
        spec: how the encoder was built.

    Raises:
        NoCounterpartError: if torchvision has no such network.
    """
    torchvision_name(spec)
    changed = reverse_axes(fold_shortcut_biases(weights))
    if spec.in_channels == 1:
        changed["conv1.weight"] = spread_channels(changed["conv1.weight"], 3).contiguous()
    return {PREFIXES["torchvision"] + name: value for name, value in changed.items()}


def fold_shortcut_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the biases of shortcuts: what follows is a batch normalisation, whose mean takes them.

    The network computes the same in evaluation mode, and in training, where the batch's own mean cancels a bias.
    """
    folded = {name: value for name, value in weights.items() if not name.endswith(_SHORTCUT_BIAS)}
    for name in weights.keys() - folded.keys():
        mean = f"{name.removesuffix('0.bias')}1.running_mean"
        folded[mean] = weights[mean] - weights[name]
    return folded


def to_nnunet(weights: Mapping[str, Tensor], spec: EncoderSpec, num_classes: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return a checkpoint for ``nnUNetv2_train -pretrained_weights``: the whole network, its decoder fresh.

    nnU-Net takes everything but the layers that name classes (``seg_layers``), if names and shapes are those of its
    plan. The encoder gives, for an array ``[B, C, Z, Y, X]`` as nnU-Net reads it, the maps that ours gives for
    ``[B, C, X, Y, Z]``, axes reversed.

    Args:
        weights: of :meth:`custom.networks.Encoder.plain_state_dict`.
        spec: how the encoder was built, by :func:`custom.networks.nnunet.nnunet_residual_encoder`.
        num_classes: of the segmentation, background included.
        seed: of the decoder's weights, drawn as nnU-Net draws them.

    Raises:
        NoCounterpartError: if the encoder is not nnU-Net's.
        ValueError: if the package that builds nnU-Net's network is not installed.
    """
    if spec.network != _NNUNET:
        raise NoCounterpartError(
            "nnU-Net's encoders have a stem that does not down-sample, and shortcuts that average-pool: "
            f"{spec.network} computes something else. Pretrain nnU-Net's own with --backbone nnunet_resenc_m_3d."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nnunet_network(spec.spatial_dims, spec.in_channels, spec.arguments, num_classes)
        initialize: Any = network.initialize
        network.apply(initialize)
    named = {PREFIXES["nnunet"] + name: value for name, value in reverse_axes(weights).items()}
    _, unexpected = network.load_state_dict(named, strict=False)
    if unexpected:
        raise ValueError(f"nnU-Net's network has no {unexpected}: are these the weights of {dict(spec.arguments)}?")
    return {NNUNET_PREFIX.rstrip("."): network.state_dict()}
