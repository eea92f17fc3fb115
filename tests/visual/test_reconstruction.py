# SPDX-License-Identifier: Apache-2.0
"""Previews show what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from custom.visual.reconstruction import HIDDEN_GREY, make_example, reconstruction_figure, save_figure


def test_visible_cells_are_the_scan_and_hidden_ones_are_not():
    image = torch.rand(1, 8, 8)
    visible = torch.tensor([[[True, False], [False, True]]])
    example = make_example(image, visible, torch.zeros(1, 8, 8), 4, region=torch.ones(2, 8, 8))
    np.testing.assert_array_equal(example.masked[:4, :4], image[0, :4, :4].numpy())
    assert (example.masked[:4, 4:] == HIDDEN_GREY).all()
    # A prediction of zeros in normalised space is the cell's own mean.
    np.testing.assert_allclose(example.reconstruction[:4, 4:], image[0, :4, 4:].mean().item(), atol=1e-6)
    np.testing.assert_array_equal(example.reconstruction[4:, 4:], image[0, 4:, 4:].numpy())


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 2)])
def test_cells_that_nobody_wanted_are_the_scan(size):
    image, prediction = torch.rand(1, *size), torch.zeros(1, *size)
    grid = (2, 2) if len(size) == 2 else (2, 2, 1)
    visible = torch.tensor([True, False, False, False]).reshape(grid)
    wanted = torch.tensor([False, True, False, False]).reshape(grid)
    cell = (4, 4, 2)[: len(size)]
    example = make_example(image, visible, prediction, cell, wanted=wanted)
    turned = example.reconstruction if len(size) == 2 else example.reconstruction[::-1, ::-1]
    scan = example.scan if len(size) == 2 else example.scan[::-1, ::-1]
    seen = example.masked if len(size) == 2 else example.masked[::-1, ::-1]
    np.testing.assert_array_equal(turned[4:], scan[4:])
    np.testing.assert_allclose(turned[:4, 4:], image[:, :4, 4:].mean().item(), atol=1e-6)
    # They were hidden all the same.
    assert (seen[4:] == HIDDEN_GREY).all()


def test_a_volume_is_shown_where_the_region_is():
    image = torch.arange(4.0).expand(1, 4, 4, 4) / 4
    region = torch.zeros(1, 4, 4, 4)
    region[..., 2] = 1
    example = make_example(image, torch.ones(1, 2, 2, 2, dtype=torch.bool), image, 2, region)
    assert example.scan.shape == (4, 4)
    assert (example.scan == 0.5).all()


def test_sheet_with_and_without_region_and_history(tmp_path):
    visible = torch.ones(1, 2, 2, dtype=torch.bool)
    grey = make_example(torch.rand(1, 8, 8), visible, torch.rand(1, 8, 8), 4)
    colour = make_example(torch.rand(3, 8, 8), visible, torch.rand(3, 8, 8), 4, torch.rand(1, 8, 8))
    history = [{"epoch": "1", "train_loss": "1.0", "val_loss": ""}, {"epoch": "2", "train_loss": "0.5"}]
    assert len(reconstruction_figure([grey]).axes) == 3
    assert len(reconstruction_figure([colour]).axes) == 4
    save_figure(reconstruction_figure([colour, colour], history), tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.height > 500
