# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's residual networks, built from its own package ``dynamic-network-architectures``.

nnU-Net (Isensee et al., 2021; residual encoders: Isensee et al., "nnU-Net Revisited", 2024) has a network class of its
own. No network of MONAI has its layers (a stem without down-sampling, shortcuts that average-pool before their 1x1
convolution), so its encoder is pretrained as it is. The arguments are those that ``nnUNetPlans.json`` lists as
``arch_kwargs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_PACKAGE = "dynamic-network-architectures"
# What every plan of nnU-Net's residual encoders says.
_LAYERS: dict[str, Any] = {
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def nnunet_residual_encoder(
    spatial_dims: int,
    in_channels: int,
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int],
    strides: Sequence[Any],
    kernel_sizes: int | Sequence[Any] = 3,
) -> nn.Module:
    """Build nnU-Net's ``ResidualEncoder`` with the layers of its plans (instance normalisation, leaky ReLU).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        features_per_stage: channels of each stage.
        n_blocks_per_stage: residual blocks of each stage.
        strides: down-sampling at the start of each stage; the first is 1. Plans write a number for each axis.
        kernel_sizes: of the convolutions, for all stages or each, written likewise.

    Returns:
        A module whose ``stages`` give one map each: ``[B, features, *spatial / product of strides so far]``.

    Raises:
        ValueError: if the package ``dynamic-network-architectures`` is not installed, or cannot be imported; if a
            stride or a kernel is not the same along all axes.
    """
    encoder_class, _ = _classes()
    _check_axes(strides=strides, kernel_sizes=kernel_sizes)
    return encoder_class(
        in_channels,
        len(features_per_stage),
        list(features_per_stage),
        kernel_sizes=kernel_sizes,
        strides=list(strides),
        n_blocks_per_stage=list(n_blocks_per_stage),
        return_skips=True,
        **_layers(spatial_dims),
    )


def nnunet_network(spatial_dims: int, in_channels: int, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Build the whole ``ResidualEncoderUNet`` around such an encoder, as nnU-Net's plans do: a block a decoder stage.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        arguments: further ones of :func:`nnunet_residual_encoder`.
        num_classes: of the segmentation, background included.

    Raises:
        ValueError: as :func:`nnunet_residual_encoder`.
    """
    _, network_class = _classes()
    encoder = {"kernel_sizes": 3, **arguments}
    num_stages = len(encoder["features_per_stage"])
    return network_class(
        in_channels,
        num_stages,
        num_classes=num_classes,
        n_conv_per_stage_decoder=[1] * (num_stages - 1),
        deep_supervision=True,
        **encoder,
        **_layers(spatial_dims),
    )


def _layers(spatial_dims: int) -> dict[str, Any]:
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    normalisation = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims]
    return {**_LAYERS, "conv_op": convolution, "norm_op": normalisation}


def _check_axes(**values: Any) -> None:
    """Axes are counted the other way round here than in nnU-Net, so none may be special."""
    for name, value in values.items():
        stages = value if isinstance(value, Sequence) else [value]
        for stage in stages:
            if isinstance(stage, Sequence) and len(set(stage)) > 1:
                raise ValueError(f"{name}: {list(stage)} differs along the axes; encoders here treat all axes alike.")


def _classes() -> tuple[type[nn.Module], type[nn.Module]]:
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
        from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
    except ImportError as error:
        raise ValueError(
            f"nnU-Net's encoders are built by its package {_PACKAGE}, which cannot be imported ({error}). Install it: "
            f"pip install {_PACKAGE}; or choose another encoder with --backbone."
        ) from error
    return ResidualEncoder, ResidualEncoderUNet
