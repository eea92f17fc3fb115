# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's residual encoder, pretrained as it is."""

from __future__ import annotations

import sys

import pytest
import torch

from custom.components import load_component
from custom.networks.nnunet import nnunet_network, nnunet_residual_encoder

SMALL = {"features_per_stage": [4, 8], "n_blocks_per_stage": [1, 2], "strides": [1, 2]}


@pytest.fixture
def package():
    return pytest.importorskip("dynamic_network_architectures")


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_hidden_cells_change_nothing_and_visible_ones_give_the_plain_network(package, spatial_dims, generator):
    spec = load_component("bundle/configs/encoders", "nnunet_resenc_small", spatial_dims=spatial_dims, in_channels=1)
    encoder = spec.build(execution="packed").double().eval()
    image = torch.rand((2, 1) + (32,) * spatial_dims, generator=generator, dtype=torch.float64)
    cells = torch.rand((2,) + (4,) * spatial_dims, generator=generator) > 0.5
    for ours, theirs in zip(encoder(image, torch.ones_like(cells)), encoder.network(image), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    hidden = cells[:, None]
    for axis in range(spatial_dims):
        hidden = hidden.repeat_interleave(8, dim=axis + 2)
    changed = torch.where(hidden, image, torch.rand_like(image))
    packed, other = encoder(image, cells), encoder(changed, cells)
    encoder.execution = "masked_dense"
    for ours, theirs, dense in zip(packed, other, encoder(image, cells), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
        torch.testing.assert_close(ours, dense, atol=1e-9, rtol=1e-9)


def test_what_a_plan_writes_is_understood(package):
    plan = {"kernel_sizes": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]], "n_blocks_per_stage": [1, 2]}
    own = nnunet_residual_encoder(2, 1, features_per_stage=[4, 8], **plan)
    plain = nnunet_residual_encoder(2, 1, **SMALL)
    assert [(key, value.shape) for key, value in own.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]


@pytest.mark.parametrize(("name", "value"), [("strides", [[1, 1], [1, 2]]), ("kernel_sizes", [[1, 3], [3, 3]])])
def test_axes_of_different_kind_are_refused(package, name, value):
    with pytest.raises(ValueError, match=f"{name}: .* differs along the axes"):
        nnunet_residual_encoder(2, 1, **{**SMALL, name: value})


def test_the_whole_network_has_the_encoder_and_nnunets_form(package):
    network = nnunet_network(2, 1, SMALL, num_classes=3)
    own = nnunet_residual_encoder(2, 1, **SMALL).state_dict()
    inside = {name.removeprefix("encoder."): value for name, value in network.state_dict().items() if "encoder" in name}
    assert set(own) == {name for name in inside if not name.startswith("decoder")}
    assert network(torch.rand(1, 1, 8, 8))[0].shape == (1, 3, 8, 8)  # deep supervision: a list


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    with pytest.raises(ValueError, match="pip install dynamic-network-architectures"):
        nnunet_residual_encoder(2, 1, **SMALL)
