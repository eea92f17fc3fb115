# SPDX-License-Identifier: Apache-2.0
"""Learning rates that fall with depth, and frozen stages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from custom.components import component_names, load_component
from custom.networks import Encoder, parameter_groups
from custom.tasks.optimization import encoder_stages, freeze_stages, layer_decay_groups

ENCODERS = Path("bundle/configs/encoders")
STAGES = {
    "resnet18_narrow": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "segresnet": ["stem", "down_layers.0", "down_layers.1", "down_layers.2", "down_layers.3"],
    "dynunet": ["input_block", "downsamples.0", "downsamples.1", "downsamples.2", "bottleneck"],
}


class Model(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.channels[-1], 2)

    def forward(self, image):
        return self.head(self.encoder(image)[-1].mean(dim=(2, 3)))


def build(name, spatial_dims=2):
    return load_component(ENCODERS, name, spatial_dims=spatial_dims, in_channels=1).build()


def model(name="resnet18_narrow"):
    torch.manual_seed(0)
    return Model(build(name))


def rates(network, groups):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(each)]: group["lr"] for group in groups for each in group["params"]}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_what_the_features_name(name):
    assert [stage.name for stage in encoder_stages(build(name))] == STAGES[name]


@pytest.mark.parametrize(
    ("name", "spatial_dims"), [*((name, 2) for name in component_names(ENCODERS)), ("segresnet", 3), ("dynunet", 3)]
)
def test_every_encoder_is_its_stages(name, spatial_dims):
    if name.startswith("nnunet"):
        pytest.importorskip("dynamic_network_architectures")
    encoder = build(name, spatial_dims)
    stages = encoder_stages(encoder)
    found = [parameter for stage in stages for parameter in stage.parameters()]
    wanted = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert len(found) == len(set(map(id, found)))
    assert set(map(id, found)) == set(map(id, wanted))


def test_rates_fall_towards_the_image():
    network = model()
    groups = layer_decay_groups(network, network.encoder, weight_decay=0.05, learning_rate=0.8, layer_decay=0.5)
    found = rates(network, groups)
    assert found["head.weight"] == found["head.bias"] == 0.8
    assert found["encoder.network.layer4.1.conv2.weight"] == 0.4
    assert found["encoder.network.layer4.0.downsample.0.weight"] == 0.4
    assert found["encoder.network.layer1.0.bn1.bias"] == 0.05
    assert found["encoder.network.conv1.weight"] == found["encoder.network.bn1.weight"] == 0.025
    assert set(found) == {name for name, each in network.named_parameters() if each.requires_grad}
    for group in groups:
        assert all((each.ndim > 1) == (group["weight_decay"] > 0) for each in group["params"])


def test_without_decay_the_groups_are_the_ordinary_ones():
    network = model("dynunet")
    for own, plain in zip(
        layer_decay_groups(network, network.encoder, 0.05, 0.1), parameter_groups(network, 0.05), strict=True
    ):
        assert own["lr"] == 0.1
        assert own["weight_decay"] == plain["weight_decay"]
        assert [id(each) for each in own["params"]] == [id(each) for each in plain["params"]]


def test_schedules_keep_the_ratios():
    network = model()
    groups = layer_decay_groups(network, network.encoder, 0.0, 0.8, 0.5)
    optimizer = torch.optim.AdamW(groups, lr=0.8)
    start = [group["lr"] for group in groups]
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=10, end_lr=0.0)
    for _ in range(9):
        optimizer.step()
        schedule.step()
        now = [group["lr"] for group in optimizer.param_groups]
        assert max(now) > 0
        assert [each / max(now) for each in now] == pytest.approx([each / max(start) for each in start])


@pytest.mark.parametrize("decay", [0.0, 1.5, -1])
def test_a_decay_out_of_range_is_refused(decay):
    network = model()
    with pytest.raises(ValueError, match="layer_decay must be in"):
        layer_decay_groups(network, network.encoder, 0.05, 0.1, decay)


def test_an_encoder_of_another_network_is_refused():
    with pytest.raises(ValueError, match="no part of the network"):
        layer_decay_groups(model(), build("resnet18_narrow"), 0.05, 0.1, 0.5)


def step(network):
    optimizer = torch.optim.SGD(layer_decay_groups(network, network.encoder, 0.1, 0.5, 0.9), lr=0.5)
    network.train()
    network(torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    optimizer.step()


def test_frozen_stages_do_not_change_and_others_do():
    network = model()
    freeze_stages(network.encoder, 2)
    before = copy.deepcopy(network.state_dict())
    step(network)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    frozen = tuple(f"encoder.network.{name}" for name in ("conv1", "bn1", "layer1"))
    assert not any(name.startswith(frozen) for name in changed)
    assert {name.split(".")[2] for name in changed if name.startswith("encoder")} == {"layer2", "layer3", "layer4"}
    assert "encoder.network.layer2.0.bn1.running_mean" in changed


def test_a_wholly_frozen_encoder_gives_the_same_maps_in_training():
    encoder = freeze_stages(build("resnet18_narrow"), 5)
    image = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(encoder.train()(image), encoder.eval()(image), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_none_frozen_changes_nothing(name):
    encoder = build(name)
    trained = {each for each, value in encoder.named_parameters() if value.requires_grad}
    freeze_stages(encoder, 0).train()
    assert trained == {each for each, value in encoder.named_parameters() if value.requires_grad}
    assert all(module.training for module in encoder.modules())


def test_a_copy_of_a_frozen_encoder_is_frozen_by_itself():
    encoder = freeze_stages(build("resnet18_narrow"), 1)
    twin = copy.deepcopy(encoder).train()
    assert not twin.network.bn1.training
    assert twin.network.bn1 is not encoder.network.bn1
    assert isinstance(twin, Encoder)


@pytest.mark.parametrize("count", [-1, 6])
def test_more_stages_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=r"0 to 5 .*\(stem, layer1, layer2, layer3, layer4\)"):
        freeze_stages(build("resnet18_narrow"), count)
