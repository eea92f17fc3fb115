# SPDX-License-Identifier: Apache-2.0
"""Boxes between the grid of a file, that of the network and millimetres."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, CropForegroundd, RandAffined, RandFlipd, Resized, ResizeWithPadOrCropd
from PIL import Image

from custom.tasks.detection import GridBoxesd, ScanObjectsd
from custom.tasks.detection.geometry import clip_boxes, corners_of, world_boxes
from datasets import LoadScand
from datasets.geometry import map_boxes

OBLIQUE = np.array([[1.9, 0.4, 0.3, -20], [-0.5, 0.7, 0.9, 14], [-0.2, -0.6, 2.8, 5], [0, 0, 0, 1]])
TURNED = np.array([[0, 0, 3.0, -30], [-1.0, 0, 0, 40], [0, -0.5, 0, 8], [0, 0, 0, 1]])


def volume_file(folder: Path, affine: np.ndarray, shape=(20, 24, 16)) -> str:
    """A volume whose voxels [5:9, 7:8, 2:12] are bright."""
    values = np.full(shape, 10, dtype=np.int16)
    values[5:9, 7:8, 2:12] = 200
    nib.save(nib.Nifti1Image(values, affine), folder / "scan.nii.gz")
    return str(folder / "scan.nii.gz")


BOX = [5, 7, 2, 4, 1, 10]  # x y z width height depth of the bright voxels


def test_corners_of_a_box() -> None:
    assert corners_of([[1, 2, 4, 8]])[0].tolist() == [[1, 2], [1, 8], [4, 2], [4, 8]]
    assert corners_of(np.zeros((0, 6))).shape == (0, 8, 3)


def test_edges_lie_half_a_voxel_before_centres() -> None:
    doubled = np.diag([2.0, 2.0, 1.0])
    doubled[:2, 2] = 0.5  # the centre of voxel 0, at edge 0.5, goes to edge 1.0, which is the index 0.5
    assert map_boxes([[0, 1, 3, 5]], doubled).tolist() == [[0, 2, 6, 10]]
    flipped = np.array([[-1.0, 0, 9], [0, 1, 0], [0, 0, 1]])  # ten voxels
    assert map_boxes([[0, 0, 1, 4]], flipped).tolist() == [[9, 0, 10, 4]]


def test_a_turned_box_becomes_its_hull() -> None:
    half = np.sqrt(0.5)
    turn = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    box = map_boxes([[0.5, 0.5, 2.5, 2.5]], turn)[0]  # corners (0, 0) to (2, 2) as indices
    assert box == pytest.approx([0.5 - np.sqrt(2), 0.5, 0.5 + np.sqrt(2), 0.5 + 2 * np.sqrt(2)])


def test_a_turned_ellipse_is_tighter_than_its_box() -> None:
    """A disc has the same hull however it is turned; without a turn, the hulls of ellipse and box are the same."""
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    middle = map_boxes([[2, 2, 8, 8]], turn, rounded=True)[0]
    assert middle[2:] - middle[:2] == pytest.approx([6, 6])
    scaled = np.array([[-2.0, 0, 9], [0, 0.5, 1], [0, 0, 1]])
    assert map_boxes([[1, 2, 4, 8]], scaled, rounded=True) == pytest.approx(map_boxes([[1, 2, 4, 8]], scaled))
    angle = np.linspace(0, 7, 5000)
    outline = np.stack([4.5 + 4 * np.cos(angle), 1.5 + np.sin(angle)])
    drawn = turn[:2, :2] @ outline + 0.5
    expected = [*drawn.min(axis=1), *drawn.max(axis=1)]
    assert map_boxes([[1, 1, 9, 3]], turn, rounded=True)[0] == pytest.approx(expected, abs=1e-4)


def test_boxes_at_the_border() -> None:
    boxes = [[-5, -5, 0, 4], [-2, 0, 2, 4], [8, 8, 12, 16], [9.5, 9.5, 20, 20], [3, 3, 3, 5], [10, 0, 12, 2]]
    clipped, kept = clip_boxes(boxes, (10, 10))
    assert kept.tolist() == [1, 2, 3]
    assert clipped[0].tolist() == [0, 0, 2, 4]
    assert clip_boxes(boxes, (10, 10), 0.25)[1].tolist() == [1]
    assert clip_boxes(np.zeros((0, 6)), (4, 4, 4))[0].shape == (0, 6)


@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), OBLIQUE, TURNED])
def test_world_boxes(affine: np.ndarray) -> None:
    (found,) = world_boxes([[5, 7, 2, 9, 8, 12]], affine)
    assert found["center_mm"] == pytest.approx((affine @ [6.5, 7, 6.5, 1])[:3].tolist())  # indices of the centre
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    assert found["size_mm"] == pytest.approx((lengths * [4, 1, 10]).tolist())
    corners = np.array(found["corners_mm"])
    assert corners.shape == (8, 3)
    assert corners[0] == pytest.approx((affine @ [4.5, 6.5, 1.5, 1])[:3])
    assert corners[7] == pytest.approx((affine @ [8.5, 7.5, 11.5, 1])[:3])


def chain(*transforms, spatial_dims: int = 3) -> Compose:
    load = LoadScand("image", spatial_dims=spatial_dims)
    return Compose([load, ScanObjectsd("image", ["object"]), *transforms, GridBoxesd("image", min_share=0)])


@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), np.diag([-1.0, -2, 3, 1]), OBLIQUE, TURNED])
def test_boxes_are_where_the_voxels_are(tmp_path: Path, affine: np.ndarray) -> None:
    """Whatever the orientation in which LoadScand finds and turns the volume."""
    item = chain()({"image": volume_file(tmp_path, affine), "boxes": [BOX], "box_labels": ["object"]})
    bright = np.argwhere(item["image"][0].numpy() > 100)
    assert item["boxes"][0].tolist() == pytest.approx([*bright.min(axis=0), *(bright.max(axis=0) + 1)])
    assert item["scan_boxes"].tolist() == [[5, 7, 2, 9, 8, 12]]
    assert item["to_world"].numpy() == pytest.approx(affine, abs=1e-5)


@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), OBLIQUE, TURNED])
def test_to_the_network_and_back_is_the_identity(tmp_path: Path, affine: np.ndarray) -> None:
    """Also for boxes at the border and outside; crop, resampling and padding only scale and shift."""
    transforms = [
        CropForegroundd("image", source_key="image", select_fn=lambda image: image > 50, margin=3, allow_smaller=True),
        Resized("image", spatial_size=37, size_mode="longest", mode="area"),
        ResizeWithPadOrCropd("image", spatial_size=(40, 20, 32)),
    ]
    item = chain(*transforms)({"image": volume_file(tmp_path, affine), "boxes": [BOX], "box_labels": ["object"]})
    matrix = item["to_grid"].numpy()
    boxes = np.array([[5, 7, 2, 9, 8, 12], [0, 0, 0, 20, 24, 16], [-3, 2.25, 15, 1, 3.5, 16], [19, 23, 15, 20, 24, 16]])
    assert map_boxes(map_boxes(boxes, matrix), np.linalg.inv(matrix)) == pytest.approx(boxes, abs=1e-6)


def test_resampled_boxes_surround_the_object(tmp_path: Path) -> None:
    """The object's centre of mass stays in the middle of its box to a small part of a voxel."""
    size = (60, 72, 48)
    grow = Resized("image", spatial_size=size, mode="trilinear")
    item = chain(grow)({"image": volume_file(tmp_path, np.eye(4)), "boxes": [BOX], "box_labels": ["object"]})
    weight = item["image"][0].numpy() - 10.0
    indices = np.indices(weight.shape).reshape(3, -1)
    middle = (indices * weight.ravel()).sum(axis=1) / weight.sum() + 0.5
    box = item["boxes"][0].numpy()
    assert (box[:3] + box[3:]) / 2 == pytest.approx(middle, abs=0.02)
    assert box[3:] - box[:3] == pytest.approx(np.array([4, 1, 10]) * np.array(size) / [20, 24, 16], rel=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_boxes_follow_random_transforms(tmp_path: Path, spatial_dims: int) -> None:
    shape = (60, 50, 40)[:spatial_dims]
    start, stop = np.array([22, 16, 14])[:spatial_dims], np.array([34, 26, 20])[:spatial_dims]
    values = np.zeros(shape, dtype=np.uint8)
    values[tuple(slice(*edge) for edge in zip(start, stop, strict=True))] = 255
    path = str(tmp_path / ("scan.png" if spatial_dims == 2 else "scan.nii.gz"))
    if spatial_dims == 2:
        Image.fromarray(values.T).save(path)
    else:
        nib.save(nib.Nifti1Image(values, OBLIQUE), path)
    affine = RandAffined(
        "image", prob=1.0, rotate_range=0.3, scale_range=0.2, translate_range=5.0, padding_mode="zeros"
    )
    transform = chain(RandFlipd("image", prob=0.5, spatial_axis=0), affine, spatial_dims=spatial_dims)
    box = [*start.tolist(), *(stop - start).tolist()]
    for seed in range(5):
        item = transform.set_random_state(seed)({"image": path, "boxes": [box], "box_labels": ["object"]})
        inside = np.argwhere(item["image"][0].numpy() > 127)
        hull = np.array([*inside.min(axis=0), *(inside.max(axis=0) + 1)])
        # The corners of a turned object are thinner than a voxel: they do not reach half of its brightness.
        assert np.abs(item["boxes"][0].numpy() - hull).max() < 2
