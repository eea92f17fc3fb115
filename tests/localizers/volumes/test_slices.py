# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.localizers.volumes import SliceView, voxel_sizes
from custom.visual.contact_sheet import make_tiles

SHAPE = (6, 7, 8)  # X to the right, Y to the front, Z to the head


def marked(x=None, y=None, z=None):
    """A volume that is 1 on one side only."""
    volume = torch.zeros(1, *SHAPE)
    volume[0, slice(None) if x is None else x, slice(None) if y is None else y, slice(None) if z is None else z] = 1
    return volume


@pytest.mark.parametrize(
    ("axis", "side", "where"),
    [
        (2, {"x": -1}, "left"),  # axial: the patient's right on the left
        (2, {"x": 0}, "right"),
        (2, {"y": -1}, "top"),  # front up
        (2, {"y": 0}, "bottom"),
        (1, {"x": -1}, "left"),  # coronal: the patient's right on the left
        (1, {"z": -1}, "top"),  # head up
        (1, {"z": 0}, "bottom"),
        (0, {"y": -1}, "left"),  # sagittal: front on the left
        (0, {"y": 0}, "right"),
        (0, {"z": -1}, "top"),  # head up
    ],
)
def test_slices_are_shown_as_radiologists_see_them(axis, side, where):
    picture = SliceView(axis, SHAPE).pictures(marked(**side), [3])[0, 0]
    edges = {"left": picture[:, 0], "right": picture[:, -1], "top": picture[0], "bottom": picture[-1]}
    assert edges[where].min() == 1
    assert picture.sum() == edges[where].numel()


def test_axial_slices_look_as_on_the_contact_sheet(generator):
    volume = torch.rand(1, *SHAPE, generator=generator)
    region = torch.zeros(1, *SHAPE)
    region[..., 5] = 1
    [tile] = make_tiles(volume, region, "scan", ["prompt"])
    picture = SliceView(2, SHAPE).pictures(volume, [5])[0, 0]
    low, high = np.percentile(volume.numpy(), [0.5, 99.5])
    np.testing.assert_allclose(tile.scan.T, ((picture.numpy() - low) / (high - low)).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pictures_are_turned_back_exactly(axis, generator):
    volume = torch.rand(2, *SHAPE, generator=generator)
    view = SliceView(axis, SHAPE)
    assert len(view) == SHAPE[axis]
    pictures = view.pictures(volume, range(len(view)))
    assert pictures.shape[2:] == view.picture_size
    assert torch.equal(view.planes(pictures).movedim(0, axis + 1), volume)


def test_pixels_are_made_square():
    view = SliceView(1, (40, 5, 12), (0.5, 0.5, 5.0))
    assert view.picture_size == (120, 40)
    assert SliceView(2, (40, 5, 12), (0.5, 0.5, 5.0)).picture_size == (5, 40)
    assert SliceView(1, (40, 5, 12), (0.5, 0.5, 5.0), square_pixels=False).picture_size == (12, 40)


def test_square_pixels_keep_a_linear_picture():
    """Linear interpolation there and back returns what is linear, but for the outermost voxels."""
    ramp = torch.arange(12.0).expand(1, 6, 5, 12) / 11
    view = SliceView(1, (6, 5, 12), (1, 1, 3.0))
    back = view.planes(view.pictures(ramp, range(5))).movedim(0, 2)
    torch.testing.assert_close(back[..., 1:-1], ramp[..., 1:-1], atol=0.01, rtol=0)


def test_voxel_sizes_come_from_the_affine():
    affine = np.diag([0.7, 0.8, 5.0, 1])
    affine[:3, :3] = affine[:3, :3] @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    image = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.from_numpy(affine))
    expected = np.linalg.norm(affine[:3, :3], axis=0)
    assert voxel_sizes(image) == pytest.approx(tuple(expected))
    assert voxel_sizes(torch.zeros(1, 4, 4, 4)) == (1, 1, 1)


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="0, 1 and 2"):
        SliceView(3, SHAPE)
