# SPDX-License-Identifier: Apache-2.0
"""Decoders and densification: shapes, cost, and what a token does."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from custom.components import load_component
from custom.networks import SparKDecoder, ThinDecoder, Visibility
from custom.networks.decoders import Densify


def maps(spatial_dims: int, side: int = 32, samples: int = 2) -> list[torch.Tensor]:
    return [torch.randn((samples, 4 * stride) + (side // stride,) * spatial_dims) for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("kind", "width"), [(SparKDecoder, 64), (ThinDecoder, 8)])
def test_reconstruction_has_the_image_size(kind, width, spatial_dims, generator):
    features = maps(spatial_dims)
    decoder = kind(spatial_dims, [16, 32, 64, 128], [4, 8, 16, 32], out_channels=3, width=width)
    visible = torch.rand((2,) + (4,) * spatial_dims, generator=generator) > 0.5
    for visibility in (None, Visibility(visible, spatial_dims)):
        assert decoder(features, visibility).shape == (2, 3) + (32,) * spatial_dims


@pytest.mark.parametrize(("width", "giga_multiply_adds"), [(768, 12.28), (384, 3.61), (192, 1.17)])
def test_sparks_decoder_costs_what_sparks_does(width, giga_multiply_adds):
    """Multiply-adds of densification and decoder behind a ResNet-50 at 224 px, counted in SparK's own code."""
    decoder = SparKDecoder(2, [256, 512, 1024, 2048], [4, 8, 16, 32], out_channels=3, width=width).to("meta").eval()
    features = [torch.zeros(1, 64 * stride, 224 // stride, 224 // stride, device="meta") for stride in (4, 8, 16, 32)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(features, None)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_multiply_adds, abs=0.005)


@pytest.mark.parametrize("name", ["thin", "spark"])
def test_shipped_decoders_build(name):
    decoder = load_component(
        "bundle/configs/decoders", name, spatial_dims=2, channels=[8, 16], strides=[2, 4], out_channels=1
    )
    assert decoder([torch.zeros(1, 8, 8, 8), torch.zeros(1, 16, 4, 4)], None).shape == (1, 1, 16, 16)


def test_token_stands_where_nothing_was_seen():
    densify = Densify(2, 3, 3).eval()
    torch.nn.init.dirac_(densify.projection.weight)
    torch.nn.init.zeros_(densify.projection.bias)
    visible = torch.tensor([[[True, False]]])
    values = torch.ones(1, 3, 1, 2) * torch.tensor([1.0, 0.0])
    filled = densify(values, Visibility(visible, 2))
    torch.testing.assert_close(filled[0, :, 0, 1], densify.token.flatten())
    torch.testing.assert_close(filled[0, :, 0, 0], torch.ones(3), atol=1e-4, rtol=0)


def test_unfit_strides_and_widths_are_refused():
    with pytest.raises(ValueError, match="strides that double"):
        SparKDecoder(2, [8, 8], [2, 8])
    with pytest.raises(ValueError, match="32 must divide it; got 100"):
        SparKDecoder(2, [8, 8], [16, 32], width=100)
    with pytest.raises(ValueError, match="multiple of the one before"):
        ThinDecoder(2, [8, 8], [2, 3])
