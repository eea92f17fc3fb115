# SPDX-License-Identifier: Apache-2.0
"""Decoders and densification: shapes, cost, and what a token does."""

from __future__ import annotations

import pytest
import torch
from monai.networks.utils import pixelshuffle
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from custom.components import load_component
from custom.networks import SparKDecoder, ThinDecoder, Visibility
from custom.networks.decoders import Densify
from custom.networks.decoders.thin import _seen_or_token
from custom.networks.masked_layers import masked_layer
from custom.networks.packed.rows import Rows
from custom.networks.packed.sites import Sites


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


def dense_thin(decoder: ThinDecoder, features: list[torch.Tensor], seen: Visibility) -> torch.Tensor:
    """The thin decoder written densely: every position is computed."""
    levels: list[torch.Tensor] = []
    for norm, layer, values in zip(decoder.norms, decoder.projections, features, strict=True):
        projected = layer(masked_layer(norm, values, seen))
        if levels and projected.shape == levels[-1].shape:
            levels[-1] = levels[-1] + projected
        else:
            levels.append(projected)
    above = None
    for level in reversed(range(len(levels))):
        token = decoder.tokens[level].reshape((1, -1) + (1,) * decoder.spatial_dims)
        values = torch.where(seen.at(levels[level].shape[2:]), levels[level], token)
        if above is not None:
            values = values + F.interpolate(above, size=values.shape[2:], mode="nearest")
        above = F.relu(decoder.block_norms[level](decoder.convolutions[level](values)))
    voxels = decoder.head(above.movedim(1, -1)).movedim(-1, 1)
    return pixelshuffle(voxels, decoder.spatial_dims, decoder.stride)


def thin(spatial_dims: int, strides: list[int]) -> tuple[ThinDecoder, list[torch.Tensor]]:
    """A decoder whose normalisations have learned something, and maps for it."""
    torch.manual_seed(0)
    decoder = ThinDecoder(spatial_dims, [4 + stride for stride in strides], strides, width=6).double()
    for module in decoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    return decoder, [
        torch.randn((2, 4 + stride) + (32 // stride,) * spatial_dims, dtype=torch.float64) for stride in strides
    ]


def voxels_of(cells: torch.Tensor) -> torch.Tensor:
    """Cells of 8 voxels as a mask of the image, ``[B, 1, *image]``."""
    for axis in range(1, cells.ndim):
        cells = cells.repeat_interleave(8, axis)
    return cells[:, None]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("strides", [[4, 8, 16], [1, 2, 4, 8], [2, 4], [1, 2]])
def test_thin_decoder_computes_what_the_dense_one_does(strides, spatial_dims, generator):
    decoder, maps = thin(spatial_dims, strides)
    decoder.eval()
    cells = torch.rand((2,) + (4,) * spatial_dims, generator=generator) > 0.4
    seen = Visibility(cells, spatial_dims)
    maps = [seen.hide(values) for values in maps]
    expected = dense_thin(decoder, maps, seen)
    torch.testing.assert_close(decoder(maps, seen), expected)
    wanted = Visibility(~cells, spatial_dims)
    at_hidden = voxels_of(~cells)
    result = decoder(maps, seen, wanted)
    torch.testing.assert_close(result * at_hidden, expected * at_hidden)
    rows = [Rows.of(values, seen.sites(values.shape[2:])) for values in maps]
    assert torch.equal(decoder(rows, seen, wanted), result)


def test_where_nothing_is_wanted_nothing_is_computed(generator):
    """One wanted cell in a corner: statistics are those of the positions that it needs, the far corner stays zero."""
    decoder, maps = thin(2, [4, 8])
    cells = torch.zeros(2, 4, 4, dtype=torch.bool)
    cells[:, 0, 0] = True
    wanted = Visibility(cells, 2)
    before = decoder.block_norms[0].running_mean.clone()
    result = decoder(maps, Visibility(~cells, 2), wanted)
    assert result[:, :, :8, :8].abs().min() > 0
    assert not result[:, :, 8:, 8:].any()
    assert not torch.equal(decoder.block_norms[0].running_mean, before)


def test_a_block_says_what_one_position_predicts():
    channels, strides = [4, 4, 4, 4], [1, 2, 4, 8]
    assert ThinDecoder(2, channels, strides).stride == 4
    assert ThinDecoder(2, channels, strides, block=1).stride == 1
    assert ThinDecoder(2, channels, strides, block=64).stride == 8


def test_the_thin_decoder_is_thin():
    """Behind a ResNet-50 at 224 px: less than a fortieth of SparK's multiply-adds, everything wanted."""
    decoder = ThinDecoder(2, [256, 512, 1024, 2048], [4, 8, 16, 32], out_channels=3).eval()
    features = [torch.zeros(1, 64 * stride, 224 // stride, 224 // stride) for stride in (4, 8, 16, 32)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(features, None)
    assert counter.get_total_flops() / 2e9 < 12.28 / 40


def test_unfit_strides_and_widths_are_refused():
    with pytest.raises(ValueError, match="strides that double"):
        SparKDecoder(2, [8, 8], [2, 8])
    with pytest.raises(ValueError, match="32 must divide it; got 100"):
        SparKDecoder(2, [8, 8], [16, 32], width=100)
    with pytest.raises(ValueError, match="multiple of the one before"):
        ThinDecoder(2, [8, 8], [2, 3])


def test_weights_start_as_in_sparks_code():
    torch.manual_seed(0)
    decoder = SparKDecoder(2, [16, 32, 64, 128], [4, 8, 16, 32], width=256)
    up, inner = decoder.blocks[0][0], decoder.blocks[0][1]
    assert up.weight.std().item() == pytest.approx((2 / (256 * 16)) ** 0.5, rel=0.02)  # Kaiming, fan out
    assert inner.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert decoder.head.weight.abs().max() < 0.1
    assert not any(layer.bias.any() for layer in (up, decoder.head))
    assert decoder.densify[0].projection.bias.any()  # PyTorch's own start, in theirs too


def test_mask_tokens_start_as_in_sparks_code():
    """A normal of 0.02 that is cut off at one deviation."""
    torch.manual_seed(0)
    for token in (Densify(2, 2_000, 1).token, ThinDecoder(2, [4], [4], width=2_000, block=1).tokens[0]):
        assert token.std().item() == pytest.approx(0.0108, abs=1e-3)
        assert token.abs().max() <= 0.02


def test_the_tokens_gradient_keeps_its_digits_in_float32(generator):
    """A sum over 260 000 hidden places."""
    hidden = Visibility(torch.zeros(1, 8, 8, dtype=torch.bool), 2)
    gradient, outcomes = torch.rand(512 * 512, 1, generator=generator), []
    for dtype in (torch.float32, torch.float64):
        token = torch.zeros(1, 1, dtype=dtype, requires_grad=True)
        seen = Rows(torch.zeros(0, 1, dtype=dtype), hidden.sites((512, 512)))
        places = Sites(torch.ones(1, 512, 512, dtype=torch.bool))
        _seen_or_token(seen, token, places).backward(gradient.to(dtype))
        outcomes.append(token.grad.item())
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-6)
