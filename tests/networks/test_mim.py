# SPDX-License-Identifier: Apache-2.0
"""The whole network of masked image modelling."""

from __future__ import annotations

import pytest
import torch

from custom.components import load_component
from custom.networks import MaskedImageModel, ThinDecoder


def model(spatial_dims: int = 2, cell_size: int = 8, backbone: str = "resnet18_narrow") -> MaskedImageModel:
    torch.manual_seed(0)
    spec = load_component("bundle/configs/encoders", backbone, spatial_dims=spatial_dims, in_channels=1)
    encoder = spec.build()
    decoder = ThinDecoder(spatial_dims, encoder.channels, encoder.strides, width=8)
    return MaskedImageModel(encoder, decoder, cell_size)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("cell_size", [4, 8, 32])
def test_every_trainable_parameter_learns(spatial_dims, cell_size, generator):
    network = model(spatial_dims, cell_size)
    image = torch.rand((2, 1) + (64,) * spatial_dims, generator=generator)
    visible = torch.rand((2, 1) + (64 // cell_size,) * spatial_dims, generator=generator) > 0.5
    network(image, visible).square().mean().backward()
    silent = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert not silent


def test_hidden_voxels_cannot_reach_the_reconstruction(generator):
    network = model()
    image = torch.rand(2, 1, 64, 64, generator=generator)
    visible = torch.rand(2, 1, 8, 8, generator=generator) > 0.5
    hidden = ~visible.repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(hidden, torch.rand(image.shape, generator=generator), image)
    assert torch.equal(network(image, visible), network(changed, visible))


def test_without_mask_it_takes_one_image_and_returns_one():
    assert model().eval()(torch.zeros(1, 1, 64, 32)).shape == (1, 1, 64, 32)


@pytest.mark.parametrize(("shape", "visible"), [((72, 64), (9, 8)), ((64, 60), None)])
def test_sizes_that_do_not_fit_say_what_would(shape, visible):
    with pytest.raises(ValueError, match=r"must be divisible by \(32, 32\).*DivisiblePadd"):
        model()(torch.zeros(1, 1, *shape), None if visible is None else torch.ones(1, *visible, dtype=torch.bool))


def test_a_grid_of_other_cells_is_refused():
    with pytest.raises(ValueError, match=r"need visible cells \(1, 8, 8\)"):
        model()(torch.zeros(1, 1, 64, 64), torch.ones(1, 4, 4, dtype=torch.bool))


def test_it_learns_to_fill_in_a_gradient(generator):
    """Half of the cells of tilted planes are hidden: the error must fall far below what their mean would leave."""
    network = model()
    axis = torch.linspace(-1, 1, 64)
    slopes = torch.rand(8, 2, 1, 1, generator=generator) * 2 - 1
    image = (slopes[:, :1] * axis[:, None] + slopes[:, 1:] * axis).reshape(8, 1, 64, 64)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        visible = torch.rand(8, 1, 8, 8, generator=generator) > 0.5
        hidden = ~visible.repeat_interleave(8, 2).repeat_interleave(8, 3)
        loss = (network(image, visible) - image)[hidden].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * image.var()
