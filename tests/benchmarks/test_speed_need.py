# SPDX-License-Identifier: Apache-2.0
"""The physical limits are those of a closed form, and multiply-adds are counted however they are done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.speed.contenders.ours import OurEncoderWork
from benchmarks.speed.contenders.work import Masks
from benchmarks.speed.meter import multiply_adds
from benchmarks.speed.need import Need, encoder_need
from custom.networks import Encoder

# One image of 2 x 2 cells of 4 voxels; the upper left and the upper right are visible: 4 x 8 voxels side by side.
UPPER_HALF = torch.tensor([[[[True, True], [False, False]]]])


def encoder_of(*layers: nn.Module, execution: str = "packed") -> Encoder:
    network = nn.Sequential(nn.Sequential(*layers))
    return Encoder(network, ["0"], spatial_dims=2, in_channels=2, execution=execution)


def test_limits_of_one_convolution_by_hand():
    encoder = encoder_of(nn.Conv2d(2, 3, 3, padding=1))
    forward, training = encoder_need(encoder, (8, 8), UPPER_HALF)
    # Along an axis of n visible positions in a row, a window of three sees 3 n - 2 of them.
    pairs = (3 * 4 - 2) * (3 * 8 - 2)
    assert forward == Need(8 * 8 * 9 * 2 * 3, 4 * 8 * 9 * 2 * 3, pairs * 2 * 3)
    assert training == forward * 2  # nothing needs the image's gradient


def test_limits_with_a_stride_and_a_second_layer():
    encoder = encoder_of(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 2, stride=2, groups=2))
    forward, training = encoder_need(encoder, (8, 8), UPPER_HALF)
    first, second = Need(64 * 8, 32 * 8, 32 * 8), Need(16 * 4 * 8, 8 * 4 * 8, 8 * 4 * 8)
    assert forward == first + second
    assert training == first * 2 + second * 3


def test_what_is_hidden_everywhere_costs_nothing():
    forward, _ = encoder_need(encoder_of(nn.Conv2d(2, 3, 3, padding=1)), (8, 8), torch.zeros_like(UPPER_HALF))
    assert forward == Need(8 * 8 * 9 * 2 * 3, 0, 0)


@pytest.mark.parametrize("execution", ["packed", "masked_dense"])
def test_counting_sees_all_products_of_both_executions(execution):
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1)
    work = OurEncoderWork(encoder_of(*layers, execution=execution))
    visible = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    with multiply_adds() as total:
        work.step(torch.randn(1, 2, 128, 128), Masks(visible, visible))
        counted = total()
    _, training = encoder_need(work.encoder, (128, 128), visible)
    assert counted == training.dense == training.block


def test_products_that_are_added_in_place_are_counted():
    total = torch.zeros(3, 5)
    with multiply_adds() as counted:
        total.addmm_(torch.ones(3, 4), torch.ones(4, 5))
        torch.mm(torch.ones(3, 4), torch.ones(4, 5), out=total)
        assert counted() == 2 * 3 * 4 * 5
