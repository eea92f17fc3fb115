# SPDX-License-Identifier: Apache-2.0
"""Each layer's rule against the plain layer applied to the visible positions alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks import UnsupportedLayerError, Visibility
from custom.networks.masked_layers import check_function, masked_layer

DIMS = [2, 3]


def batch(spatial_dims: int, generator: torch.Generator, channels: int = 4, side: int = 8):
    values = torch.randn((3, channels) + (side,) * spatial_dims, generator=generator)
    cells = torch.rand((3,) + (4,) * spatial_dims, generator=generator) > 0.5
    visibility = Visibility(cells, spatial_dims)
    return visibility.hide(values), visibility, visibility.at(values.shape[2:])


def rows(values: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    return values.movedim(1, -1)[visible[:, 0]]


@pytest.mark.parametrize("spatial_dims", DIMS)
def test_batch_norm_uses_visible_positions_only(spatial_dims, generator):
    values, visibility, visible = batch(spatial_dims, generator)
    layer = (nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d)(4)
    reference = nn.BatchNorm1d(4)
    result = masked_layer(layer, values, visibility)
    torch.testing.assert_close(rows(result, visible), reference(rows(values, visible)))
    torch.testing.assert_close(layer.running_mean, reference.running_mean)
    torch.testing.assert_close(layer.running_var, reference.running_var)
    assert not result.masked_select(~visible).any()


def test_batch_norm_of_a_single_visible_position_is_refused():
    cells = torch.zeros(1, 4, 4, dtype=torch.bool)
    cells[0, 0, 0] = True
    with pytest.raises(ValueError, match="needs at least two positions"):
        masked_layer(nn.BatchNorm2d(2), torch.ones(1, 2, 4, 4), Visibility(cells, 2))


@pytest.mark.parametrize("spatial_dims", DIMS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_of_each_sample_alone(spatial_dims, groups, generator):
    values, visibility, visible = batch(spatial_dims, generator)
    layer = nn.GroupNorm(groups, 4)
    nn.init.normal_(layer.weight, generator=generator)
    nn.init.normal_(layer.bias, generator=generator)
    result = masked_layer(layer, values, visibility)
    for sample in range(3):
        shown = values[sample].movedim(0, -1)[visible[sample, 0]]  # [N, C]: a sequence of N visible positions
        expected = layer(shown.T[None])[0].T
        torch.testing.assert_close(result[sample].movedim(0, -1)[visible[sample, 0]], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spatial_dims", DIMS)
def test_instance_norm_does_not_depend_on_batch_mates(spatial_dims, generator):
    values, visibility, _ = batch(spatial_dims, generator)
    layer = (nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d)(4, affine=True)
    together = masked_layer(layer, values, visibility)
    for sample in range(3):
        alone = masked_layer(
            layer, values[sample : sample + 1], Visibility(visibility.cells[sample : sample + 1], spatial_dims)
        )
        torch.testing.assert_close(together[sample : sample + 1], alone)


def test_a_sample_without_visible_positions_is_zero_and_finite():
    visibility = Visibility(torch.zeros(1, 4, 4, dtype=torch.bool), 2)
    result = masked_layer(nn.GroupNorm(2, 4), torch.zeros(1, 4, 4, 4), visibility)
    assert torch.equal(result, torch.zeros_like(result))


def test_max_pool_ignores_hidden_zeros():
    values = torch.tensor([[[[-1.0, 0.0], [-3.0, 0.0]]]])
    visibility = Visibility(torch.tensor([[[True, False], [True, False]]]), 2)
    assert masked_layer(nn.MaxPool2d(2), values, visibility).item() == -1.0


def test_average_pool_divides_by_visible_positions():
    values = torch.tensor([[[[2.0, 0.0], [4.0, 0.0]]]])
    visibility = Visibility(torch.tensor([[[True, False], [True, False]]]), 2)
    assert masked_layer(nn.AvgPool2d(2), values, visibility).item() == 3.0
    assert masked_layer(nn.AdaptiveAvgPool2d(1), values, visibility).item() == 3.0


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.MaxPool2d(3, 2, 1)]
)
def test_pooling_with_everything_visible_is_the_plain_layer(pool, generator):
    values = torch.randn(2, 3, 8, 8, generator=generator)
    visibility = Visibility(torch.ones(2, 4, 4, dtype=torch.bool), 2)
    torch.testing.assert_close(masked_layer(pool, values, visibility), pool(values))


def test_activation_that_moves_zero_stays_hidden(generator):
    values, visibility, visible = batch(2, generator)
    result = masked_layer(nn.Sigmoid(), values, visibility)
    assert not result.masked_select(~visible).any()
    assert (result.masked_select(visible) > 0).all()


def test_a_function_without_a_rule_is_named():
    with pytest.raises(UnsupportedLayerError, match="function pad"):
        check_function("pad", torch.ones(1, 1, 4, 4), (), {})
    with pytest.raises(UnsupportedLayerError, match="function view"):
        check_function("view", torch.ones(1, 1, 4, 4), (), {})
    with pytest.raises(UnsupportedLayerError, match="function cat"):
        check_function("cat", torch.ones(1, 1, 4, 4), ([],), {"dim": 2})
    check_function("cat", torch.ones(1, 1, 4, 4), ([],), {"dim": -3})
