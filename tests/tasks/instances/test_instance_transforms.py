# SPDX-License-Identifier: Apache-2.0
"""Masks that follow the image: through crops, resizing, flips and rotations, on pictures and turned slices."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAffined, RandFlipd, Resized, ResizeWithPadOrCropd, Rotate90d
from PIL import Image

from custom.tasks.detection import GridBoxesd, ScanObjectsd
from custom.tasks.instances import GridMasksd, ScanMasksd
from custom.tasks.instances.masks import hulls
from datasets import LoadScand, ScanError

pytest.importorskip("pycocotools")

WIDTH, HEIGHT = 40, 28
BOXES = [[6, 4, 10, 5], [24, 15, 7, 9]]


def _polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _shape(boxes=BOXES):
    """Bright rectangles, ``[x, y]``."""
    values = np.zeros((WIDTH, HEIGHT), np.uint8)
    for x, y, width, height in boxes:
        values[x : x + width, y : y + height] = 255
    return values


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.ascontiguousarray(_shape().T)).save(tmp_path / "a.png")
    return {
        "image": str(tmp_path / "a.png"),
        "scan_id": "a.png",
        "boxes": BOXES,
        "box_labels": ["b", "a"],
        "outlines": [_polygon(*box) for box in BOXES],
    }


def _chain(*spatial, kind="boxes", codes=None, classes=("a", "b")):
    options = {"keys": "image", "classes": classes, "kind": kind, "codes": codes}
    return Compose(
        [
            LoadScand(),
            ScanMasksd(**options),
            ScanObjectsd(**options),
            *spatial,
            GridBoxesd("image"),
            GridMasksd("image"),
        ]
    )


def _check(result, share=0.99):
    """Every bright voxel is in a mask, every dark one is not; boxes are hulls, labels belong to their objects."""
    image, masks = result["image"][0].as_tensor(), result["masks"][result["box_index"]]
    assert masks.dtype == torch.uint8
    assert ((image > 127) == (masks.sum(dim=0) > 0)).float().mean() >= share
    assert torch.equal(result["boxes"], hulls(masks))
    for box, mask in zip(result["boxes"], masks, strict=True):
        assert mask[int(box[0]) : int(box[2]), int(box[1]) : int(box[3])].sum() == mask.sum()


def test_as_they_are_stored(picture):
    result = _chain()(picture)
    _check(result, 1.0)
    assert result["labels"].tolist() == [1, 0]
    assert result["boxes"].tolist() == [[6, 4, 16, 9], [24, 15, 31, 24]]
    assert "outlines" not in result


@pytest.mark.parametrize(
    "spatial",
    [
        [RandFlipd("image", prob=1, spatial_axis=0)],
        [RandFlipd("image", prob=1, spatial_axis=1)],
        [Rotate90d("image")],
        [ResizeWithPadOrCropd("image", (60, 20))],
        [Resized("image", (80, 56), mode="nearest")],
    ],
    ids=["flip x", "flip y", "quarter turn", "pad and crop", "twice as large"],
)
def test_exactly_through_each_transform(picture, spatial):
    _check(_chain(*spatial)(picture), 1.0)


def test_through_a_random_chain(picture):
    affine = RandAffined(
        "image", prob=1, rotate_range=0.4, scale_range=0.2, translate_range=4, padding_mode="zeros", mode="bilinear"
    )
    chain = _chain(Resized("image", (70, 50), mode="bilinear"), affine).set_random_state(0)
    for _ in range(4):
        _check(chain(picture), 0.97)


def test_objects_that_leave_the_image_go(picture):
    result = _chain(ResizeWithPadOrCropd("image", (14, 28)))(
        picture
    )  # x from 13 to 26: of the first 3 columns are left
    _check(result, 1.0)
    assert (result["labels"].tolist(), result["box_index"].tolist()) == ([1, 0], [0, 1])
    assert result["boxes"].tolist() == [[0, 4, 3, 9], [11, 15, 14, 24]]
    without = _chain(ResizeWithPadOrCropd("image", (4, 28)))(picture)  # x from 18 to 21: between the two
    assert (without["boxes"].shape, without["labels"].shape, without["box_index"].shape) == ((0, 4), (0,), (0,))
    assert without["masks"].shape == (2, 4, 28), "those of all objects, of which box_index picks"


@pytest.mark.parametrize("stored", ["upright", "mirrored", "across the first axis"])
def test_slices_of_nifti(tmp_path, picture, stored):
    """The outlines are those of the file; LoadScand turns the slice."""
    values, affine = _shape()[:, :, None], np.diag([-1.0, -1, 1, 1])
    if stored == "mirrored":
        affine = np.diag([1.0, 1, 1, 1])
    if stored == "across the first axis":
        values = _shape()[None]
        affine = np.array([[2.0, 0, 0, 0], [0, 0, 1, 3], [0, 1, 0, 5], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    result = _chain()({**picture, "image": str(tmp_path / "a.nii.gz")})
    assert sorted(result["image"].shape[1:]) == [HEIGHT, WIDTH]
    _check(result, 1.0)


@pytest.mark.parametrize("kind", ["codes", "components"])
def test_masks_of_label_maps(tmp_path, picture, kind):
    codes = _shape() // 255
    codes[24:31, 15:24] = 4
    Image.fromarray(np.ascontiguousarray(codes.T)).save(tmp_path / "m.png")
    data = {"image": picture["image"], "scan_id": "a.png", "mask": str(tmp_path / "m.png")}
    result = _chain(kind=kind, codes={"a": 4, "b": 1})(data)
    _check(result, 1.0)
    assert result["labels"].tolist() == [0, 1]


def test_no_objects_and_nothing_known(picture):
    empty = _chain()({**picture, "boxes": [], "box_labels": [], "outlines": []})
    assert (empty["masks"].shape, empty["boxes"].shape, empty["labels"].shape) == ((0, WIDTH, HEIGHT), (0, 4), (0,))
    unknown = _chain()({"image": picture["image"], "scan_id": "a.png"})
    assert not {"masks", "boxes", "scan_masks"} & set(unknown)


def test_boxes_outside_of_the_picture_do_not_disturb_the_order(picture):
    """ScanObjectsd drops such a box; the masks of the others stay with their boxes."""
    data = {
        **picture,
        "boxes": [[50, 40, 5, 5], *BOXES],
        "box_labels": ["a", "b", "a"],
        "outlines": [_polygon(50, 40, 5, 5), *picture["outlines"]],
    }
    result = _chain()(data)
    _check(result, 1.0)
    assert result["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("outlines", "words"),
    [
        (None, "object 0 has a box but no outline.*--detector retinanet"),
        ([None, _polygon(*BOXES[1])], "object 0 has a box but no outline"),
        ([{"size": [5, 5], "counts": [25]}] * 2, "for 5 x 5 pixels, the picture has 40 x 28"),
    ],
)
def test_outlines_that_are_missing_or_of_another_picture(picture, outlines, words):
    load = Compose([LoadScand(), ScanMasksd("image", classes=["a", "b"])])
    with pytest.raises(Exception, match="ScanMasksd") as caught:
        load({**picture, "outlines": outlines})
    cause = caught.value
    while not isinstance(cause, ScanError):
        cause = cause.__cause__
    assert cause.path.endswith("a.png")
    with pytest.raises(ScanError, match=words):
        raise cause
