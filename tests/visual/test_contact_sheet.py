# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: the right slice, the right way up, drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from custom.visual.contact_sheet import contact_sheet, make_tiles, save_contact_sheet, spread


def test_pictures_keep_their_axes():
    image, region = torch.zeros(1, 20, 30), torch.zeros(1, 20, 30)
    image[0, 15, 3], region[0, 15, 3] = 9, 1
    (tile,) = make_tiles(image, region, "scan", ["tumor"])
    assert tile.region.shape == (20, 30)
    assert tile.region[15, 3] == 1
    assert tile.title == "scan\ntumor: 0.2 %"


def test_a_volume_shows_the_slice_with_most_of_each_region():
    region = torch.zeros(3, 8, 9, 10)
    region[0, 2:4, 2:4, 7] = 1
    region[0, :, :, 1] = 0.1  # diffuse, but below the threshold
    region[1, 0, 8, 3] = 0.2
    image = torch.arange(10.0).expand(1, 8, 9, 10)
    tiles = make_tiles(image, region, "scan", ["a", "b", "c"])
    assert tiles[0].region.sum() == 4
    # x and y are turned round: the patient's right (high x) lies left, the front (high y) above.
    assert tiles[1].region[7, 0] == pytest.approx(0.2)
    assert [round(float(tile.scan[0, 0]) * 9) for tile in tiles] == [7, 3, 5]
    assert tiles[2].title == "scan\nc: nothing"


def test_pixels_keep_their_shape():
    affine = torch.diag(torch.tensor([0.5, 2.0, 1.0, 1.0]))
    tiles = make_tiles(MetaTensor(torch.rand(1, 8, 8, 8), affine=affine), torch.zeros(1, 8, 8, 8), "scan", ["a"])
    assert tiles[0].aspect == 4


def test_large_scans_are_thinned_and_long_names_cut():
    (tile,) = make_tiles(torch.rand(3, 1000, 500), torch.zeros(1, 1000, 500), "folder/" * 20, ["tumor"])
    assert tile.scan.shape == (334, 167, 3)
    assert len(tile.title) < 60


def test_constant_scans_are_drawn():
    (tile,) = make_tiles(torch.full((1, 8, 8), 7.0), torch.ones(1, 8, 8), "scan", ["a"])
    assert np.isfinite(tile.scan).all()
    contact_sheet([[tile]])


def test_spread():
    assert spread(3) == [0, 1, 2]
    assert spread(1) == [0]
    chosen = spread(1000)
    assert (len(chosen), chosen[0], chosen[-1]) == (24, 0, 999)


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"], [f"prompt {index}" for index in range(7)]])
def test_tiles_of_a_scan_lie_in_one_row(prompts):
    region = torch.rand(len(prompts), 16, 16)
    scans = [make_tiles(torch.rand(1, 16, 16), region, f"scan_{index}", prompts) for index in range(5)]
    axes = contact_sheet(scans).axes
    for first in range(0, len(prompts) * 5, len(prompts)):
        together = axes[first : first + len(prompts)]
        assert len({each.get_subplotspec().rowspan.start for each in together}) == 1
    assert sum(bool(each.get_title()) for each in axes) == 5 * len(prompts)


def test_the_region_is_seen_in_the_file(tmp_path):
    region = torch.zeros(1, 32, 32)
    region[0, 16:, :16] = 1  # right, above
    tiles = make_tiles(torch.rand(1, 32, 32), region, "scan", ["a"])
    save_contact_sheet(tmp_path / "sheet.png", [tiles])
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = pixels[..., 0] - pixels[..., 2] > 60
    rows, columns = np.nonzero(red)
    assert red.sum() > 1000
    assert columns.mean() > pixels.shape[1] / 2
    assert rows.mean() < pixels.shape[0] / 2
