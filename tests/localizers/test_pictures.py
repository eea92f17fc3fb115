# SPDX-License-Identifier: Apache-2.0
"""Scans as pictures: scale, colour and which way is up."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom.localizers.pictures import PictureLocalizer, PictureRefiner, as_picture, from_picture, scaled


class Upper(PictureLocalizer):
    """The upper third of a picture, as bright as it is."""

    def describe(self):
        return {"name": "upper"}

    def localize_pictures(self, pictures, prompts):
        self.seen = pictures
        maps = pictures.mean(dim=1, keepdim=True).repeat(1, len(prompts), 1, 1)
        maps[..., pictures.shape[-2] // 3 :, :] = 0
        return maps


class Shift(PictureRefiner):
    """Moves a map one row down."""

    def describe(self):
        return {"name": "shift"}

    def refine_pictures(self, pictures, probabilities):
        return probabilities.roll(1, dims=-2)


def test_pictures_are_upright():
    """Scans are [C, X, Y] with x to the right and y down; models want rows first."""
    image = torch.ones(1, 9, 6)
    image[:, :, 3:] = 2
    image[0, 0, 0] = 0
    localizer = Upper()
    found = localizer.localize(image, ["a", "b"])
    assert localizer.seen.shape == (1, 3, 6, 9)
    assert found.shape == (2, 9, 6)
    assert found[:, :, 2:].eq(0).all()
    assert found[:, 1:, :2].gt(0).all()


def test_refiners_work_on_the_same_picture():
    maps = torch.zeros(2, 9, 6)
    maps[:, 4, 2] = 1
    moved = Shift().refine(torch.rand(1, 9, 6), maps)
    assert moved[:, 4, 3].eq(1).all()
    assert moved.sum() == 2


def test_as_picture_is_undone_by_from_picture():
    values = torch.rand(2, 3, 4)
    assert torch.equal(from_picture(as_picture(values)), values)


def test_robust_scale():
    image = torch.arange(1000, dtype=torch.float32).reshape(1, 20, 50) - 300
    image[0, 0, 0], image[0, -1, -1] = -1e5, 1e6
    values = scaled(image, (2,))
    assert values.shape == (3, 20, 50)
    assert values.min() == 0
    assert values.max() == 1
    assert values[0, 10, 0] == pytest.approx(0.5, abs=0.01)
    assert torch.equal(values[0], values[2])


def test_colour_stays_colour_and_metadata_goes():
    image = MetaTensor(torch.rand(3, 5, 7))
    values = scaled(image, (2,))
    assert type(values) is torch.Tensor
    assert not torch.equal(values[0], values[1])


def test_a_constant_scan_is_black():
    assert scaled(torch.full((1, 4, 4), 7.0), (2,)).eq(0).all()


def test_mostly_constant_scans_keep_their_range():
    """Percentiles that coincide must not wipe out what little there is."""
    image = torch.zeros(1, 50, 50)
    image[0, 3, 3] = 5
    assert scaled(image, (2,)).max() == 1


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="2 spatial dimensions"):
        Upper().localize(torch.rand(1, 4, 4, 4), ["a"])
