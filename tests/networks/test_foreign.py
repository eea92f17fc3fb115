# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: found under their names, exact in what they compute, refused where they do not belong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.networks import nets
from monai.networks.nets.resnet import ResNetFeatures
from safetensors.torch import save_file
from torch import nn

from custom.components import load_component
from custom.networks import EncoderSpec, load_encoder, load_weights, save_encoder
from custom.networks.foreign import match_weights, read_tensors

ENCODERS = Path("bundle/configs/encoders")


def spec(name, spatial_dims=2, channels=1):
    return load_component(ENCODERS, name, spatial_dims=spatial_dims, in_channels=channels)


def randomize(network):
    """Statistics of normalisation as after training, so that a difference would show."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(generator=generator).mul_(0.1)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    return network.eval()


@pytest.fixture(scope="module", params=[18, 50])
def torchvision_resnet(request):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return request.param, randomize(getattr(models, f"resnet{request.param}")(weights=None))


def torchvision_features(network, image):
    value, maps = network.maxpool(network.relu(network.bn1(network.conv1(image)))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps.append(value := stage(value))
    return maps


def assert_same(own, other):
    for mine, theirs in zip(own, other, strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()
        assert mine.shape == theirs.shape


@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_torchvision_resnets_give_the_same_features(torchvision_resnet, channels, tmp_path):
    depth, network = torchvision_resnet
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    encoder = spec(f"imagenet_resnet{depth}", channels=channels).build().eval()
    report = load_weights(encoder, tmp_path / "resnet.pth")
    assert report.missing == ()
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert report.adapted == (() if channels == 3 else ("conv1.weight: summed over its 3 channels",))
    image = torch.rand(2, channels, 70, 97)  # odd sizes: padding and rounding must agree too
    assert_same(encoder(image), torchvision_features(network, image.expand(-1, 3, -1, -1)))


@torch.no_grad()
def test_a_resnet_saved_as_a_sequence(torchvision_resnet, tmp_path):
    depth, network = torchvision_resnet
    sequence = nn.Sequential(*network.children())
    torch.save({"backbone." + name: value for name, value in sequence.state_dict().items()}, tmp_path / "r.pt")
    encoder = spec(f"imagenet_resnet{depth}", channels=3).build().eval()
    report = load_weights(encoder, tmp_path / "r.pt")
    assert (report.prefix, report.missing) == ("backbone.", ())
    image = torch.rand(1, 3, 64, 64)
    assert_same(encoder(image), torchvision_features(network, image))


def test_checkpoints_of_spark(torchvision_resnet, tmp_path):
    """Both files that SparK writes: the encoder alone, and everything with the decoder and the optimizer."""
    depth, network = torchvision_resnet
    module = {f"sparse_encoder.sp_cnn.{name}": value for name, value in network.state_dict().items()}
    module |= {"dense_decoder.proj.weight": torch.zeros(3, 8, 1, 1), "mask_tokens.0": torch.zeros(1, 8, 1, 1)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(64, 3, 7, 7)}}, "param_groups": [{"lr": 0.1}]}
    content = {"args": "resnet", "epoch": 3, "module": {**module, "config": {"sbn": True}}, "optimizer": optimizer}
    torch.save(content, tmp_path / "spark_style.pth")
    report = load_weights(spec(f"imagenet_resnet{depth}").build(), tmp_path / "spark_style.pth")
    assert report.prefix == "module.sparse_encoder.sp_cnn."
    assert report.missing == ()
    assert report.elsewhere == 3


def medicalnet_file(depth, path):
    """Random weights in the layout of MedicalNet's files, of the class by which MONAI reads them."""
    torch.manual_seed(depth)
    network = randomize(ResNetFeatures(f"resnet{depth}", pretrained=False, spatial_dims=3, in_channels=1))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": {**state, "module.conv_seg.0.weight": torch.zeros(4, 4)}, "epoch": 1}, path)
    return network


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
@torch.no_grad()
def test_medicalnet_resnets_give_the_same_features(depth, tmp_path):
    network = medicalnet_file(depth, tmp_path / "resnet.pth")
    encoder = spec(f"medicalnet_resnet{depth}", spatial_dims=3).build().eval()
    report = load_weights(encoder, tmp_path / "resnet.pth")
    assert report.missing == ()
    assert report.unexpected == ("conv_seg.0.weight",)
    assert report.prefix == "state_dict.module."
    image = torch.rand(1, 1, 32, 40, 24)
    assert_same(encoder(image), network(image)[1:])


def test_shortcuts_without_weights_pass_the_gradient(tmp_path):
    encoder = spec("medicalnet_resnet18", spatial_dims=3).build()
    with torch.no_grad():  # the blocks compute nothing: what arrives came by the shortcuts
        for name, parameter in encoder.named_parameters():
            if "layer" in name and ".bn2." in name:
                parameter.zero_()
    image = torch.rand(2, 1, 32, 32, 32, requires_grad=True)
    encoder(image)[-1].sum().backward()
    assert image.grad.abs().sum() > 0


def test_an_encoder_pretrained_from_medicalnet_is_rebuilt(tmp_path):
    medical = spec("medicalnet_resnet18", spatial_dims=3)
    encoder = medical.build()
    loaded = load_encoder(save_encoder(tmp_path / "encoder.safetensors", encoder, medical))
    image = torch.rand(1, 1, 32, 32, 32)
    assert_same(loaded.eval()(image), encoder.eval()(image))


@pytest.mark.parametrize("prefix", ["", "encoder.network.", "model.module.backbone.", "state_dict.model.encoder."])
def test_the_same_network_is_found_at_any_depth(prefix, tmp_path):
    small = spec("resnet18_narrow")
    source = small.build()
    content = {f"{prefix}{name}": value.contiguous() for name, value in source.network.state_dict().items()}
    save_file({**content, "head.weight": torch.zeros(2, 128)}, tmp_path / "weights.safetensors")
    report = load_weights(loaded := small.build(), tmp_path / "weights.safetensors")
    assert report.prefix == prefix
    assert report.share == 1
    assert torch.equal(loaded.network.layer4[1].conv2.weight, source.network.layer4[1].conv2.weight)


def test_a_flexible_unet_of_monai(tmp_path):
    """A segmentation network of MONAI, as a bundle saves it: its encoder is MONAI's ResNet."""
    unet = nets.FlexibleUNet(1, 2, "resnet10", pretrained=False, spatial_dims=2)
    torch.save({"model": unet.state_dict(), "optimizer": {}}, tmp_path / "model.pt")
    own = spec("medicalnet_resnet10")  # MONAI's encoders of FlexibleUNet have the form of MedicalNet's
    report = load_weights(loaded := own.build(), tmp_path / "model.pt")
    assert report.prefix == "model.encoder."
    assert report.missing == ()
    assert torch.equal(loaded.network.conv1.weight, unet.encoder.conv1.weight)


def test_grey_weights_for_colour_compute_the_same_of_a_grey_picture(tmp_path):
    grey, colour = spec("resnet18_narrow").build().eval(), spec("resnet18_narrow", channels=3).build().eval()
    torch.save(grey.network.state_dict(), tmp_path / "grey.pt")
    report = load_weights(colour, tmp_path / "grey.pt")
    assert report.adapted == ("conv1.weight: spread over 3 channels",)
    image = torch.rand(1, 1, 64, 64)
    assert_same(colour(image.expand(-1, 3, -1, -1)), grey(image))


def test_known_counts():
    wanted = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3), "b.weight": torch.zeros(1)}
    found = {
        "net.a.weight": torch.ones(3, 2),
        "net.a.bias": torch.ones(4),  # another shape
        "net.c": torch.ones(1),
        "head.weight": torch.ones(1),
    }
    fitting, report = match_weights(found, wanted)
    assert list(fitting) == ["a.weight"]
    assert report.as_dict() == {
        "matched": 1,
        "share": 0.6,
        "missing": ["a.bias", "b.weight"],
        "unexpected": ["a.bias", "c"],
        "prefix": "net.",
        "elsewhere": 1,
        "adapted": [],
    }


def test_a_part_of_an_encoder_is_refused(tmp_path):
    narrow = spec("resnet18_narrow").build()
    half = {name: value for name, value in narrow.network.state_dict().items() if "layer4" not in name}
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"half\.pt: only \d+% of the weights fit ResNet: .* missing \(layer4"):
        load_weights(narrow, tmp_path / "half.pt")


def test_nnunet_is_refused_by_name(tmp_path):
    content = {"encoder.stages.0.blocks.0.conv1.conv.weight": torch.zeros(32, 1, 3, 3)}
    torch.save({"network_weights": content}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(ValueError, match="nnU-Net's or STU-Net's"):
        load_weights(spec("resnet18_narrow").build(), tmp_path / "checkpoint_final.pth")


RESIDUAL = EncoderSpec(
    "custom.networks.nnunet.nnunet_residual_encoder",
    ["stages.0", "stages.1", "stages.2"],
    3,
    arguments={"features_per_stage": [8, 16, 32], "n_blocks_per_stage": [1, 2, 2], "strides": [1, 2, 2]},
)


def run_weights(content, prefix):
    """What nnU-Net's layers run, by the names of the encoder: `all_modules`, never `conv` and `norm`."""
    trained = {}
    for name in RESIDUAL.build().plain_state_dict():
        block, layer, last = name.rsplit(".", 2)
        trained[name] = content[f"{prefix}{block}.all_modules.{('conv', 'norm').index(layer)}.{last}"]
    return trained


def assert_holds(encoder, trained):
    for name, value in encoder.plain_state_dict().items():
        axes = range(value.ndim - 1, 1, -1)
        assert torch.equal(value, trained[name].permute(0, 1, *axes) if value.ndim > 3 else trained[name]), name


def test_of_nnssls_sparse_layers_the_weights_that_are_run_are_taken(tmp_path):
    """Its conversion makes `conv` and `all_modules.0` two layers, of which training changes the second."""
    pytest.importorskip("dynamic_network_architectures")
    stale = RESIDUAL.build().network.state_dict()
    trained = {name: value + ("all_modules" in name) for name, value in stale.items()}
    weights = {
        f"{prefix}{name}": value
        for prefix in ("network_weights.encoder.", "network_weights.decoder.encoder.", "spark_weights.encoder.")
        for name, value in trained.items()
    }
    torch.save(weights, tmp_path / "spark.pth")
    report = load_weights(encoder := RESIDUAL.build(), tmp_path / "spark.pth")
    assert_holds(encoder, run_weights(weights, "network_weights.encoder."))
    assert (report.missing, report.unexpected, report.share) == ((), (), 1)
    count = len(encoder.plain_state_dict())
    assert f"{count} weights under all_modules" in report.adapted[0]
    assert report.adapted[1].startswith("axes reversed")


def test_a_plain_nnunet_has_one_weight_under_two_names(tmp_path):
    pytest.importorskip("dynamic_network_architectures")
    source = RESIDUAL.build()
    torch.save({"network_weights": {f"encoder.{k}": v for k, v in source.network.state_dict().items()}}, tmp_path / "n")
    report = load_weights(encoder := RESIDUAL.build(), tmp_path / "n")
    assert_holds(encoder, source.plain_state_dict())
    assert (report.unexpected, report.adapted) == ((), ("axes reversed: nnU-Net's arrays are [Z, Y, X]",))


def test_weights_after_real_steps_of_nnssl(tmp_path):
    """nnssl's own sparse network and loss; `MWM_NNSSL` names a checkout of github.com/MIC-DKFZ/nnssl."""
    checkout = os.environ.get("MWM_NNSSL")
    if not checkout:
        pytest.skip("MWM_NNSSL, a checkout of nnssl, is not set")
    script = Path(__file__).with_name("nnssl_steps.py")
    subprocess.run([sys.executable, script, checkout, tmp_path / "spark.pth"], check=True)
    content = read_tensors(tmp_path / "spark.pth")
    conv = "network_weights.encoder.stages.1.blocks.0.conv1."
    assert not torch.equal(content[f"{conv}conv.weight"], content[f"{conv}all_modules.0.weight"])
    report = load_weights(encoder := RESIDUAL.build(), tmp_path / "spark.pth")
    assert_holds(encoder, run_weights(content, "network_weights.encoder."))
    assert (report.missing, report.share) == ((), 1)


@pytest.mark.parametrize("differ", [True, False])
def test_copies_of_a_network_that_differ_are_refused(differ, tmp_path):
    """As a teacher and a student: nobody knows which one is meant. Equal copies are one."""
    small = spec("resnet18_narrow")
    student = small.build().network.state_dict()
    teacher = {name: value + differ for name, value in student.items()}
    torch.save({"student": {"backbone": student}, "teacher": {"backbone": teacher}}, tmp_path / "two.pt")
    if differ:
        with pytest.raises(ValueError, match=r"two\.pt: holds ResNet several times, under .*'teacher\.backbone\.'"):
            load_weights(small.build(), tmp_path / "two.pt")
    else:
        assert load_weights(small.build(), tmp_path / "two.pt").share == 1


def test_a_checkpoint_of_a_task_gives_the_last_epochs_weights(tmp_path):
    """It keeps the best epoch's, too."""
    small = spec("resnet18_narrow")
    last = {f"encoder.network.{name}": value for name, value in small.build().network.state_dict().items()}
    best = {name: value + 1 for name, value in last.items()}
    torch.save({"network": last, "best_model": {"epoch": 1, "weights": best}}, tmp_path / "checkpoint.pt")
    load_weights(encoder := small.build(), tmp_path / "checkpoint.pt")
    assert torch.equal(encoder.network.conv1.weight, last["encoder.network.conv1.weight"])


class Sneaky:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", ["code", "empty", "half", "no tensors", "absent"])
def test_files_that_are_no_weights_are_named(content, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    if content == "code":
        torch.save({"state_dict": {}, "extra": Sneaky()}, path)
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "half":
        torch.save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:700])
    elif content == "no tensors":
        torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"weights\.pt: "):
        read_tensors(path)
    assert "executed" not in capsys.readouterr().out


def test_a_specification_may_not_name_anything_else_of_the_project(tmp_path):
    small = spec("resnet18_narrow")
    path = save_encoder(tmp_path / "encoder.safetensors", small.build(), small)
    record = EncoderSpec("custom.networks.foreign.read_tensors", ["layer1"], 2).as_dict()
    path.with_suffix(".json").write_text(json.dumps({"encoder": record}))
    with pytest.raises(ValueError, match="outside"):
        load_encoder(path)
