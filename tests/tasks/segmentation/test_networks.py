# SPDX-License-Identifier: Apache-2.0
"""Decoders on encoders that begin at strides 1, 2 and 4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from custom.components import load_component
from custom.networks import Encoder
from custom.tasks.segmentation import PyramidSegmenter, UNetSegmenter


def segmenter(configs: Path, name: str, backbone: str, dims: int, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    spec = load_component(configs / "encoders", backbone, spatial_dims=dims, in_channels=channels)
    options = {"channels": 4}
    return load_component(configs / "segmenters", name, options, encoder=spec.build(), num_classes=3)


@pytest.mark.parametrize("name", ["flexible_unet", "pyramid"])
@pytest.mark.parametrize(
    ("backbone", "dims", "size"),
    [
        ("resnet18_narrow", 2, (64, 48)),
        ("resnet18_small", 2, (40, 56)),
        ("resnet10_narrow", 2, (37, 50)),
        ("segresnet", 2, (32, 32)),
        ("dynunet", 2, (32, 48)),
        ("resnet10_narrow", 3, (32, 16, 23)),
    ],
)
def test_logits_have_the_size_of_the_image(configs: Path, name: str, backbone: str, dims: int, size: tuple) -> None:
    network = segmenter(configs, name, backbone, dims).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 1, *size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3, *size)


@pytest.mark.parametrize("name", ["flexible_unet", "pyramid"])
def test_every_parameter_learns(configs: Path, name: str) -> None:
    network = segmenter(configs, name, "resnet18_narrow", 2, channels=3)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    silent = [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert silent == []


def test_a_shift_of_the_image_by_the_coarsest_stride_shifts_the_logits(configs: Path) -> None:
    network = segmenter(configs, "flexible_unet", "resnet18_small", 2).eval()
    image = torch.zeros(1, 1, 128, 128)
    image[..., 40:56, 40:60] = 1
    with torch.no_grad():
        here, there = network(image), network(image.roll((8, 16), (2, 3)))
    inner = (..., slice(36, 92), slice(36, 92))
    assert torch.allclose(here[inner], there.roll((-8, -16), (2, 3))[inner], atol=1e-4)


@pytest.mark.parametrize("kind", [UNetSegmenter, PyramidSegmenter])
def test_a_traced_network_equals_the_original(configs: Path, kind: type) -> None:
    name = "flexible_unet" if kind is UNetSegmenter else "pyramid"
    network = segmenter(configs, name, "resnet18_narrow", 2).eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.rand(1, 1, 64, 64))
        assert torch.allclose(traced(image), network(image), atol=1e-5)


def test_strides_that_do_not_double_are_refused(configs: Path) -> None:
    spec = load_component(configs / "encoders", "resnet18_narrow", spatial_dims=2, in_channels=1)
    network = spec.build().network
    skipping = Encoder(network, ["layer1", "layer3"], 2)
    with pytest.raises(ValueError, match="strides double"):
        UNetSegmenter(skipping, 2)
    assert PyramidSegmenter(skipping, 2, channels=4).eval()(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)
