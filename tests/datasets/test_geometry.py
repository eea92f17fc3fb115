# SPDX-License-Identifier: Apache-2.0
"""From voxels of a file to voxels in memory: the brightest voxel says where it went."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import CenterSpatialCropd, Compose, Resized

from datasets import LoadScand, load_datalist
from datasets.geometry import boxes_in_memory, stored_to_memory

FLIPPED = np.diag([-2.0, -3.0, 1.5, 1.0])
TURNED = np.array([[0, 2.0, 0, 5], [-1.0, 0, 0, 7], [0, 0, -1.5, 3], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.8, 0.6, 0, 5], [-0.6, 0.8, 0.1, 7], [0, 0.1, -1.5, 3], [0, 0, 0, 1]])


def _marked(make, path, shape, at, affine):
    values = np.zeros(shape, np.float32)
    values[at] = 1
    return str(make.nifti(path, values, affine))


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, TURNED, OBLIQUE], ids=["plain", "flipped", "turned", "oblique"])
@pytest.mark.parametrize("across", [0, 1, 2])
def test_slices(make, tmp_path, affine, across):
    shape, at = [7, 6, 5], [4, 1, 3]
    shape[across], at[across] = 1, 0
    path = _marked(make, tmp_path / "a.nii.gz", shape, tuple(at), affine)
    image = LoadScand(spatial_dims=2)({"image": path})["image"]
    stored = [index for axis, index in enumerate(at) if axis != across]
    found = np.argwhere(image[0].numpy() == 1)
    np.testing.assert_allclose(stored_to_memory(image) @ [*stored, 1], [*found[0], 1], atol=1e-4)


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, TURNED, OBLIQUE], ids=["plain", "flipped", "turned", "oblique"])
def test_volumes(make, tmp_path, affine):
    path = _marked(make, tmp_path / "a.nii.gz", (7, 6, 5), (4, 1, 3), affine)
    image = LoadScand(spatial_dims=3)({"image": path})["image"]
    found = np.argwhere(image[0].numpy() == 1)
    np.testing.assert_allclose(stored_to_memory(image) @ [4, 1, 3, 1], [*found[0], 1], atol=1e-4)


@pytest.mark.parametrize("row", [(1, 0, 0), (-1, 0, 0), (0, 0, -1)], ids=["axial", "mirrored", "sagittal"])
def test_dicom_slices(make, tmp_path, row):
    """The ramp is brightest in the last column of the last row: stored index (5, 4)."""
    path = make.dicom(tmp_path / "a.dcm", "1.2.826.0.1.3680043.8.498.9", row=row)
    image = LoadScand(spatial_dims=2)({"image": str(path)})["image"]
    found = np.argwhere(image[0].numpy() == image.max().item())
    np.testing.assert_allclose(stored_to_memory(image) @ [5, 4, 1], [*found[0], 1], atol=1e-4)


def test_pictures_stay_as_they_are(make, tmp_path):
    image = LoadScand()({"image": str(make.png(tmp_path / "a.png"))})["image"]
    assert np.array_equal(stored_to_memory(image), np.eye(3))


def test_later_transforms_count(make, tmp_path):
    """Cropped by one on each side and enlarged twice: the edge e = i + 1/2 of a voxel goes to 2 (e - 1)."""
    path = make.png(tmp_path / "a.png", np.zeros((8, 12), np.uint8))
    load = Compose([
        LoadScand(), CenterSpatialCropd("image", (10, 6)), Resized("image", (20, 12), mode="bilinear"),
    ])  # fmt: skip
    matrix = stored_to_memory(load({"image": str(path)})["image"])
    edges = np.array([[1.0, 1.0], [4.0, 3.0]])
    moved = (edges - 0.5) @ matrix[:2, :2].T + matrix[:2, 2] + 0.5
    np.testing.assert_allclose(moved, [[0, 0], [6, 4]], atol=1e-9)


def test_a_real_slice_keeps_its_box(make, tmp_path):
    """The same picture as PNG and as a NIfTI slice that is stored from right to left."""
    picture = np.zeros((6, 9), np.uint8)
    picture[1:3, 5:9] = 255
    make.png(tmp_path / "a.png", picture)
    make.nifti(tmp_path / "b.nii.gz", picture.T[::-1, :, None].astype(np.float32), np.diag([1.0, -1, 1, 1]))
    make.manifest(
        tmp_path, "a.png,x,train,5 1 4 2", "b.nii.gz,x,train,0 1 4 2", header="file,label,split,box_xywh"
    )  # fmt: skip
    for item in load_datalist(tmp_path).items:
        image = LoadScand()(item)["image"]
        (x, y, width, height), *_ = item["boxes"]
        corners = np.array([[x, y], [x + width, y + height]]) - 0.5
        matrix = stored_to_memory(image)
        first, last = np.sort(corners @ matrix[:2, :2].T + matrix[:2, 2] + 0.5, axis=0).round().astype(int)
        inside = np.zeros(image.shape[1:], bool)
        inside[first[0] : last[0], first[1] : last[1]] = True
        assert np.array_equal(inside, image[0].numpy() > 0), item["scan_id"]


def test_boxes_follow_a_slice_that_is_turned(tmp_path):
    """A slice stored with both axes reversed: the box lies at the other corner in memory."""
    image = np.zeros((10, 8, 1), dtype=np.float32)
    image[1:3, 2:7] = 1
    path = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 5.0, 1.0])), path)
    scan = LoadScand("image", spatial_dims=2)({"image": str(path)})["image"]
    (x, y, width, height) = (round(value) for value in boxes_in_memory([[1, 2, 2, 5]], scan)[0])
    assert scan[0].sum() == scan[0, x : x + width, y : y + height].sum() == width * height
    assert (x, y) != (1, 2)
