# SPDX-License-Identifier: Apache-2.0
"""Outlines as masks, exactly as pycocotools draws them, and on other grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom.metrics.boxes import encode_masks
from custom.tasks.detection.objects import boxes_in
from custom.tasks.instances.masks import decode_masks, drawn, hulls, masks_in, rasterised, resampled

coco_mask = pytest.importorskip("pycocotools.mask")

SQUARE = [[1, 2, 4, 2, 4, 4, 1, 4]]  # pixels 1 to 3 of x, 2 and 3 of y


def _blob(seed: int, size: tuple[int, int]) -> np.ndarray:
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 1, *size, generator=torch.manual_seed(seed)), 5, 1, 2)
    return (smooth[0, 0] > 0.1).numpy().astype(np.uint8)


def test_a_polygon_in_a_wide_picture_lies_x_first():
    expected = np.zeros((7, 5), np.uint8)
    expected[1:4, 2:4] = 1
    masks = rasterised([SQUARE], (7, 5))
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, expected[None])


def test_polygons_are_drawn_as_pycocotools_does():
    polygons = [[2.3, 1.7, 11.9, 3.2, 8.1, 9.6, 3.4, 7.7], [12.0, 0.0, 14.5, 0.5, 13.0, 4.0]]
    rows = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 10, 15)))
    assert np.array_equal(rasterised([polygons], (15, 10))[0], rows.T)
    assert 0 < rows.sum() < 150


def test_polygons_at_and_over_the_border():
    whole = rasterised([[[0, 0, 6, 0, 6, 4, 0, 4]], [[-3, -3, 9, -3, 9, 9, -3, 9]]], (6, 4))
    assert whole.all()
    corner = rasterised([[[4, 3, 8, 3, 8, 9, 4, 9]]], (6, 4))[0]
    assert np.array_equal(np.argwhere(corner), [[4, 3], [5, 3]])


@pytest.mark.parametrize("compressed", [True, False])
def test_run_length_codes(compressed):
    mask = _blob(0, (9, 6))
    if compressed:
        code = coco_mask.encode(np.asfortranarray(mask.T))
        code = {"size": list(code["size"]), "counts": code["counts"].decode()}
    else:  # down the columns, zeros first
        flat = np.concatenate([[0], mask.ravel(), [1 - mask.ravel()[-1]]]).astype(int)
        edges = np.flatnonzero(np.diff(flat))
        code = {"size": [6, 9], "counts": np.diff(np.concatenate([[0], edges])).tolist()}
    assert np.array_equal(rasterised([code], (9, 6))[0], mask)


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="object 1 has a box but no outline"):
        rasterised([SQUARE, None], (7, 5))
    with pytest.raises(ValueError, match="of object 0 is for 6 x 7 pixels, the picture has 7 x 6"):
        rasterised([{"size": [7, 6], "counts": [42]}], (7, 6))


def test_codes_of_masks_come_back():
    masks = np.stack([_blob(seed, (8, 5)) for seed in range(3)])
    assert np.array_equal(decode_masks(encode_masks(masks), (8, 5)), masks)
    assert decode_masks([], (8, 5)).shape == (0, 8, 5)


@pytest.mark.parametrize("components", [True, False])
def test_masks_of_label_maps_are_in_the_order_of_their_boxes(components):
    codes = np.zeros((12, 10), int)
    codes[1:3, 1:4], codes[6:9, 2:3], codes[9, 3], codes[4:7, 6:9] = 2, 2, 2, 1
    groups = [[1], [3], [2]]
    boxes, labels = boxes_in(codes, groups, components)
    masks = masks_in(codes, groups, components)
    assert len(masks) == len(labels) == (3 if components else 2), "pieces that touch by a corner are one"
    np.testing.assert_array_equal(hulls(torch.from_numpy(masks)), boxes)


def test_the_same_grid_changes_nothing():
    masks = torch.from_numpy(_blob(1, (13, 9)))[None]
    assert torch.equal(drawn(masks, np.eye(3), (13, 9)), masks)


def test_turned_and_cropped():
    masks = torch.from_numpy(_blob(2, (13, 9)))[None]
    matrix = np.array([[0, -1.0, 8], [1, 0, -2], [0, 0, 1]])  # x' = 8 - y, y' = x - 2
    expected = masks[0].T.flip(0)[:, 2:12]
    assert torch.equal(drawn(masks, matrix, (9, 10))[0], expected)


def test_finer_grids_enlarge_and_coarser_ones_average():
    mask = torch.zeros(1, 6, 6)
    mask[0, 2:4, 1:3] = 1
    fine = resampled(mask, np.array([[3.0, 0, 1], [0, 3, 1], [0, 0, 1]]), (18, 18))
    assert torch.equal(fine[0, 7:11, 4:8], torch.ones(4, 4)), "inside, away from the edge"
    assert fine[0, :5].max() == fine[0, 13:].max() == 0
    coarse = resampled(mask, np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]), (3, 3))
    torch.testing.assert_close(coarse[0], torch.tensor([[0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]))


def test_an_object_too_small_for_the_grid_keeps_a_voxel():
    mask = torch.zeros(2, 30, 30, dtype=torch.uint8)
    mask[0, 13, 22] = 1
    matrix = np.array([[0.1, 0, -0.45], [0, 0.1, -0.45], [0, 0, 1]])
    found = drawn(mask, matrix, (3, 3))
    assert torch.equal(found[0].nonzero(), torch.tensor([[1, 2]]))
    assert not found[1].any(), "nothing stays nothing"
    assert torch.equal(hulls(found[:1]), torch.tensor([[1.0, 2.0, 2.0, 3.0]]))


def test_no_masks_at_all():
    assert drawn(torch.zeros(0, 4, 4, dtype=torch.uint8), np.eye(3), (5, 6)).shape == (0, 5, 6)
    assert hulls(torch.zeros(0, 5, 6)).shape == (0, 4)
