# SPDX-License-Identifier: Apache-2.0
"""Weights that leave for other libraries: their own networks load them, and compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import FlexibleUNet

from custom.components import load_component
from custom.networks import EncoderSpec, load_weights
from custom.networks.foreign import reverse_axes
from custom.networks.key_maps import (
    PREFIXES,
    NoCounterpartError,
    fold_shortcut_biases,
    to_nnunet,
    to_torchvision,
    torchvision_name,
)
from custom.networks.nnunet import nnunet_network

ENCODERS = Path("bundle/configs/encoders")


def spec(name, spatial_dims=2, channels=1):
    return load_component(ENCODERS, name, spatial_dims=spatial_dims, in_channels=channels)


def trained(description, seed=0):
    """An encoder whose parameters and running statistics are all different from those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    encoder = description.build().eval()
    with torch.no_grad():
        for name, value in encoder.network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1:
                value.normal_(generator=generator).mul_(0.3).add_(1.0 if name.endswith("weight") else 0.0)
    return encoder


def turned(image):
    """An image with its spatial axes in reversed order."""
    return image.permute(0, 1, *range(image.ndim - 1, 1, -1))


def assert_same(own, other, tolerance=1e-5):
    assert own.shape == other.shape
    assert (own - other).abs().max() <= tolerance * other.abs().max()


def maps_of(resnet, image):
    value, maps = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image)))), []
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        maps.append(value := stage(value))
    return maps


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 1), ("resnet18", 3), ("imagenet_resnet50", 1)])
@torch.no_grad()
def test_torchvision_computes_the_same_of_upright_pictures(name, channels):
    models = pytest.importorskip("torchvision.models")
    description = spec(name, channels=channels)
    encoder = trained(description)
    weights = to_torchvision(encoder.plain_state_dict(), description)
    resnet = getattr(models, torchvision_name(description))(weights=None).eval()
    keys = resnet.load_state_dict(weights, strict=False)
    assert (set(keys.missing_keys), keys.unexpected_keys) == ({"fc.weight", "fc.bias"}, [])
    picture = torch.rand(2, channels, 70, 97)  # [row, column]; odd sizes: padding and rounding must agree too
    theirs = maps_of(resnet, picture.expand(-1, 3, -1, -1))
    for mine, value in zip(encoder(turned(picture)), theirs, strict=True):
        assert_same(turned(mine), value)


@torch.no_grad()
def test_timm_has_the_same_names():
    timm = pytest.importorskip("timm")
    description = spec("resnet18")
    encoder = trained(description)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    network.load_state_dict(to_torchvision(encoder.plain_state_dict(), description), strict=True)
    picture = torch.rand(1, 1, 64, 96)
    theirs = network.forward_features(picture.expand(-1, 3, -1, -1))
    assert_same(turned(encoder(turned(picture))[-1]), theirs)


def test_the_gradient_of_training_is_that_of_the_network_with_biases():
    """In training the batch's own mean cancels a bias before the normalisation: folding changes nothing there."""
    description = spec("resnet18_narrow")
    with_bias = trained(description).train()
    without = EncoderSpec(**{**description.as_dict(), "arguments": {**description.arguments, "bias_downsample": False}})
    folded = without.build().train()
    folded.network.load_state_dict(fold_shortcut_biases(with_bias.plain_state_dict()), strict=False)
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with_bias(image)[-1].square().sum().backward()
    folded(image)[-1].square().sum().backward()
    own, other = with_bias.network.conv1.weight.grad, folded.network.conv1.weight.grad
    assert (own - other).abs().max() <= 1e-3 * own.abs().max()


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (spec("resnet18_narrow"), "widen_factor 1.0, this one 0.25"),
        (spec("resnet18_small"), "conv1_t_size 7, this one 3"),
        (spec("resnet18", spatial_dims=3), "pictures of three channels, this one 3D"),
        (spec("resnet18", channels=2), "2D images of 2"),
        (spec("resnet10"), "torchvision has no monai.networks.nets.resnet10"),
        (spec("segresnet"), "torchvision has no monai.networks.nets.SegResNet"),
        (spec("medicalnet_resnet18"), "torchvision has no custom"),
    ],
)
def test_what_torchvision_has_not_is_said(description, reason):
    with pytest.raises(NoCounterpartError, match=reason):
        to_torchvision({}, description)


@pytest.mark.parametrize(("name", "backbone"), [("medicalnet_resnet10", "resnet10"), ("resnet10", "resnet10")])
@torch.no_grad()
def test_a_flexible_unet_of_monai_takes_the_encoder(name, backbone):
    encoder = trained(spec(name))
    unet = FlexibleUNet(1, 2, backbone, pretrained=False, spatial_dims=2).eval()
    weights = fold_shortcut_biases(encoder.plain_state_dict())
    keys = unet.load_state_dict({PREFIXES["monai.FlexibleUNet"] + key: each for key, each in weights.items()}, False)
    assert keys.unexpected_keys == []
    assert not any(key.startswith("encoder.") for key in keys.missing_keys)
    image = torch.rand(1, 1, 64, 96)
    for mine, theirs in zip(encoder(image), unet.encoder(image)[1:], strict=True):
        assert_same(mine, theirs)


def test_axes_come_back():
    weights = {"a.weight": torch.rand(2, 3, 4, 5, 6), "b.weight": torch.rand(2, 3, 4, 5), "c.bias": torch.rand(2)}
    there = reverse_axes(weights)
    assert torch.equal(there["a.weight"][1, 2, :, 1, 0], weights["a.weight"][1, 2, 0, 1, :])
    assert torch.equal(there["b.weight"], weights["b.weight"].mT)
    assert all(torch.equal(value, weights[name]) for name, value in reverse_axes(there).items())


def load_as_nnunet(network, checkpoint):
    """What nnU-Net asks of pretrained weights: each key but those of the segmentation layers, in the same shape."""
    found, own = checkpoint["network_weights"], network.state_dict()
    wanted = {name for name in own if ".seg_layers." not in name}
    assert wanted <= set(found)
    assert all(found[name].shape == own[name].shape for name in wanted)
    network.load_state_dict({**own, **{name: found[name] for name in wanted}}, strict=True)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_nnunet_computes_the_same(spatial_dims, tmp_path):
    pytest.importorskip("dynamic_network_architectures")
    description = spec("nnunet_resenc_small", spatial_dims)
    encoder = trained(description)
    torch.save(to_nnunet(encoder.plain_state_dict(), description, num_classes=3), tmp_path / "nnunet.pth")
    network = nnunet_network(spatial_dims, 1, description.arguments, num_classes=5).eval()  # another task's classes
    load_as_nnunet(network, torch.load(tmp_path / "nnunet.pth", weights_only=True))
    array = torch.rand((1, 1, 16, 24, 32)[: spatial_dims + 2])  # [Z, Y, X], as nnU-Net reads it
    for mine, theirs in zip(encoder(turned(array)), network.encoder(array), strict=True):
        assert_same(turned(mine), theirs)


def test_nnunets_own_function_loads_it(tmp_path):
    pytest.importorskip("dynamic_network_architectures")
    nnunet = pytest.importorskip("nnunetv2.run.load_pretrained_weights")
    description = spec("nnunet_resenc_small", 3)
    encoder = trained(description)
    torch.save(to_nnunet(encoder.plain_state_dict(), description), tmp_path / "nnunet.pth")
    network = nnunet_network(3, 1, description.arguments, num_classes=4)
    classes = network.decoder.seg_layers[0].weight.clone()
    nnunet.load_pretrained_weights(network, str(tmp_path / "nnunet.pth"))
    own = encoder.plain_state_dict()["stages.2.blocks.0.conv1.conv.weight"]
    assert torch.equal(network.encoder.stages[2].blocks[0].conv1.conv.weight, own.permute(0, 1, 4, 3, 2))
    assert torch.equal(network.decoder.seg_layers[0].weight, classes)


def test_the_decoder_is_drawn_as_the_seed_says():
    pytest.importorskip("dynamic_network_architectures")
    description = spec("nnunet_resenc_small")
    weights = trained(description).plain_state_dict()
    state = torch.get_rng_state()
    key = "decoder.stages.0.convs.0.conv.weight"
    draws = [to_nnunet(weights, description, seed=seed)["network_weights"][key] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(state, torch.get_rng_state())


def test_nnunets_weights_come_back(tmp_path):
    pytest.importorskip("dynamic_network_architectures")
    description = spec("nnunet_resenc_small", 3)
    encoder = trained(description)
    torch.save(to_nnunet(encoder.plain_state_dict(), description), tmp_path / "checkpoint_final.pth")
    report = load_weights(back := description.build(), tmp_path / "checkpoint_final.pth")
    assert report.missing == ()
    assert report.adapted == ("axes reversed: nnU-Net's arrays are [Z, Y, X]",)
    for mine, theirs in zip(encoder.plain_state_dict().values(), back.plain_state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_monais_resnets_are_not_nnunets():
    with pytest.raises(NoCounterpartError, match="shortcuts that average-pool: monai"):
        to_nnunet({}, spec("resnet18"))
