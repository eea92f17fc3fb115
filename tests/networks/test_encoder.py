# SPDX-License-Identifier: Apache-2.0
"""Sparse encoders: SparK's published behaviour, on every shipped encoder, in 2D and 3D."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from monai.networks import nets
from torch.utils.checkpoint import checkpoint

from custom.components import component_names, load_component
from custom.networks import Encoder, EncoderSpec, UnsupportedLayerError

ENCODERS = "bundle/configs/encoders"
SMALL = {
    "resnet": EncoderSpec(
        "monai.networks.nets.resnet10",
        ["layer1", "layer2", "layer3", "layer4"],
        2,
        channel_argument="n_input_channels",
        arguments={"conv1_t_stride": 2, "widen_factor": 0.125, "feed_forward": False},
    ),
    "bottleneck": EncoderSpec(
        "monai.networks.nets.resnet50",
        ["layer1", "layer2"],
        2,
        channel_argument="n_input_channels",
        arguments={"conv1_t_stride": 1, "widen_factor": 0.125, "feed_forward": False},
    ),
    "segresnet": EncoderSpec(
        "monai.networks.nets.SegResNet", [f"down_layers.{at}" for at in range(4)], 2, arguments={"init_filters": 8}
    ),
    "dynunet": EncoderSpec(
        "monai.networks.nets.DynUNet",
        ["input_block", "downsamples.0", "bottleneck"],
        2,
        arguments={
            "out_channels": 2, "kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3,
            "filters": [4, 8, 16, 32],
        },
    ),
    "densenet": EncoderSpec(
        "monai.networks.nets.DenseNet",
        ["features.denseblock1", "features.denseblock2"],
        2,
        arguments={"out_channels": 2, "init_features": 8, "growth_rate": 4, "block_config": [2, 2, 2]},
    ),
    "mednext": EncoderSpec(
        "monai.networks.nets.MedNeXt",
        ["enc_stages.0", "enc_stages.1", "enc_stages.2"],
        2,
        arguments={
            "out_channels": 2, "init_filters": 4, "blocks_down": [1, 1, 1, 1], "blocks_up": [1, 1, 1, 1],
            "kernel_size": 3,
        },
    ),
    "se_resnet": EncoderSpec(
        "monai.networks.nets.SENet",
        ["layer1", "layer2"],
        2,
        arguments={
            "block": "se_resnet_bottleneck", "layers": [1, 1, 1, 1], "groups": 1, "reduction": 16, "inplanes": 64,
            "downsample_kernel_size": 1, "input_3x3": False,
        },
    ),
}  # fmt: skip
# Batch normalisation mixes the samples of a batch, by definition; the others must not.
PER_SAMPLE = ["segresnet", "dynunet", "mednext"]


def make(name: str, spatial_dims: int = 2) -> Encoder:
    spec = SMALL[name]
    torch.manual_seed(0)
    return EncoderSpec(**{**spec.as_dict(), "spatial_dims": spatial_dims}).build()


def inputs(spatial_dims: int, generator: torch.Generator, cells: int = 8, size: int = 32, samples: int = 2):
    image = torch.randn((samples, 1) + (size,) * spatial_dims, generator=generator)
    visible = torch.rand((samples,) + (size // cells,) * spatial_dims, generator=generator) > 0.5
    visible[(slice(None),) + (0,) * spatial_dims] = True
    return image, visible


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", component_names(ENCODERS))
def test_every_shipped_encoder_builds_and_runs(name, spatial_dims, generator):
    if name.startswith("nnunet"):
        pytest.importorskip("dynamic_network_architectures")
    encoder = load_component(ENCODERS, name, spatial_dims=spatial_dims, in_channels=1).build().eval()
    image, visible = inputs(spatial_dims, generator, samples=1)
    with torch.no_grad():
        maps = encoder(image, visible)
    assert [value.shape[1] for value in maps] == encoder.channels
    assert [32 // value.shape[2] for value in maps] == encoder.strides


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_with_every_cell_visible_it_is_the_plain_network(name, spatial_dims, generator):
    # In double precision: the order of sums differs between machines, and a deep random network magnifies that.
    encoder = make(name, spatial_dims).double()
    reference = copy.deepcopy(encoder)
    image, visible = inputs(spatial_dims, generator)
    masked, plain = encoder(image.double(), torch.ones_like(visible)), reference(image.double())
    for ours, theirs in zip(masked, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    for ours, theirs in zip(encoder.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dense_features_are_those_of_monai():
    encoder = make("resnet").eval()
    network, image = encoder.network, torch.randn(2, 1, 32, 32)
    expected = network.layer1(network.maxpool(network.act(network.bn1(network.conv1(image)))))
    assert torch.equal(encoder(image)[0], expected)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_hidden_cannot_change_anything(name, generator):
    encoder = make(name)
    image, visible = inputs(2, generator)
    hidden = ~visible.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    changed = torch.where(hidden, torch.full_like(image, float("nan")), image)
    for before, after in zip(encoder(image, visible), encoder(changed, visible), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", SMALL)
def test_hidden_positions_are_zero_at_every_depth(name, generator):
    encoder = make(name)
    image, visible = inputs(2, generator, cells=16)
    for values in encoder(image, visible):
        scale = values.shape[-1] // 2 or 1
        if values.shape[-1] >= 2:
            hidden = ~visible.repeat_interleave(scale, 1).repeat_interleave(scale, 2)[:, None]
            assert not values.masked_select(hidden).any()


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_batch_mates_with_other_counts_change_nothing(name, generator):
    encoder = make(name)
    image, visible = inputs(2, generator)
    visible[1] = False
    visible[1, 0, 0] = True
    for sample in range(2):
        alone = encoder(image[sample : sample + 1], visible[sample : sample + 1])
        for ours, theirs in zip(encoder(image, visible), alone, strict=True):
            torch.testing.assert_close(ours[sample : sample + 1], theirs, atol=1e-5, rtol=1e-5)


def test_batch_norm_in_evaluation_does_not_mix_samples(generator):
    encoder = make("resnet").eval()
    image, visible = inputs(2, generator)
    for ours, theirs in zip(encoder(image, visible), encoder(image[:1], visible[:1]), strict=True):
        torch.testing.assert_close(ours[:1], theirs, atol=1e-5, rtol=1e-5)


def test_a_cell_smaller_than_the_stride_shows_the_coarse_position(generator):
    encoder = make("resnet").eval()
    visible = torch.zeros(1, 16, 16, dtype=torch.bool)
    visible[0, 0, 0] = True  # 4 voxels of 64; the coarsest map has 2 x 2 positions of 32 voxels
    coarse = encoder(torch.randn(1, 1, 64, 64, generator=generator), visible)[-1]
    shown = coarse.abs().sum(1)[0] > 0
    assert shown.tolist() == [[True, False], [False, False]]


def test_interleaved_networks_threads_and_recomputation_agree(generator):
    first, second = make("segresnet"), make("dynunet")
    image, visible = inputs(2, generator)
    other = ~visible
    alone = first(image, visible)[-1], first(image, other)[-1]
    second(image, other)
    recomputed = checkpoint(lambda x: first(x, visible)[-1], image.requires_grad_(), use_reentrant=False)
    recomputed.sum().backward()
    results: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda i=i, mask=mask: results.update({i: first(image, mask)[-1]}))
        for i, mask in enumerate((visible, other))
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert torch.equal(recomputed, alone[0])
    assert torch.equal(results[0], alone[0])
    assert torch.equal(results[1], alone[1])


def test_parameters_that_lead_nowhere_are_frozen_and_left_out():
    encoder = make("segresnet")
    assert not any(parameter.requires_grad for parameter in encoder.network.up_layers.parameters())
    assert not any(name.startswith(("up_layers", "conv_final")) for name in encoder.plain_state_dict())


def test_weights_have_monai_names():
    plain = nets.resnet10(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.125, feed_forward=False)
    assert make("resnet").plain_state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("autocast", [torch.bfloat16])
def test_bfloat16_autocast_runs(autocast, generator):
    image, visible = inputs(2, generator)
    with torch.autocast("cpu", dtype=autocast):
        maps = make("segresnet")(image, visible)
    assert all(value.isfinite().all() for value in maps)


def test_copies_are_independent(generator):
    encoder = make("resnet")
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.network.conv1.weight.zero_()
    assert twin.network.conv1.weight.abs().sum() > 0
    assert twin(torch.randn(2, 1, 32, 32, generator=generator))[0].abs().sum() > 0


def test_an_unsupported_layer_raises_with_its_name(generator):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.LocalResponseNorm(2))
    encoder = Encoder(network, ["1"], 2)
    image, visible = inputs(2, generator)
    with pytest.raises(UnsupportedLayerError, match="LocalResponseNorm"):
        encoder(image, visible)


def test_errors_name_what_is_wrong():
    network = nets.resnet10(spatial_dims=2, n_input_channels=1, widen_factor=0.125, feed_forward=False)
    with pytest.raises(ValueError, match=r"no submodule 'layer9'.*layer1"):
        Encoder(network, ["layer9"], 2)
    with pytest.raises(ValueError, match="fine to coarse"):
        Encoder(network, ["layer2", "layer1"], 2)
    with pytest.raises(ValueError, match="1 channels"):
        make("resnet")(torch.zeros(1, 3, 32, 32))


def test_wrong_arguments_are_thought_of_when_a_network_cannot_be_traced():
    spec = EncoderSpec("monai.networks.nets.SegResNet", ["down_layers.0"], 2, arguments={"blocks_down": [1, 1, 1]})
    with pytest.raises(ValueError, match=r"SegResNet cannot be traced .*Check `arguments`"):
        spec.build()
