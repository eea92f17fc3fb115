# SPDX-License-Identifier: Apache-2.0
"""Which objects a data set tells, and the transforms that bring them to the image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from custom.tasks.detection import (
    GridBoxesd,
    ScanObjectsd,
    any_scans,
    check_detection,
    labelled_scans,
    object_classes,
    object_kind,
)
from custom.tasks.detection.objects import boxes_in, code_groups
from datasets import LoadScand, ScanError, load_datalist


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.fromarray(np.zeros((30, 40), dtype=np.uint8)).save(tmp_path / "scan.png")
    return str(tmp_path / "scan.png")


def prepared(item: dict, spatial_dims: int = 2, **options) -> dict:
    transforms = [LoadScand("image", spatial_dims=spatial_dims), ScanObjectsd("image", **options), GridBoxesd("image")]
    return Compose(transforms)(item)


def test_listed_boxes(picture: str) -> None:
    boxes = [[3, 5, 10, 1], [39, 29, 1, 1], [-5, -5, 10, 10]]
    item = prepared({"image": picture, "boxes": boxes, "box_labels": ["b", "a", "b"]}, classes=["a", "b"], kind="boxes")
    assert item["scan_size"] == [40, 30]
    assert item["boxes"].tolist() == [[3, 5, 13, 6], [39, 29, 40, 30], [0, 0, 5, 5]]
    assert item["labels"].tolist() == [1, 0, 1]
    assert item["boxes"].dtype == torch.float32
    assert item["labels"].dtype == torch.int64


def test_boxes_outside_are_left_out_and_reported(picture: str, caplog: pytest.LogCaptureFixture) -> None:
    item = {"image": picture, "scan_id": "s1", "boxes": [[50, 5, 3, 3], [1, 1, 2, 2]], "box_labels": ["a", "a"]}
    found = prepared(item, classes=["a"], kind="boxes")
    assert found["boxes"].tolist() == [[1, 1, 3, 3]]
    assert "s1: 1 boxes lie outside" in caplog.text


def test_scans_without_objects_and_without_truth(picture: str) -> None:
    empty = prepared({"image": picture, "boxes": [], "box_labels": []}, classes=["a"], kind="boxes")
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].shape == (0,)
    unknown = prepared({"image": picture}, classes=["a"], kind="boxes")
    assert "boxes" not in unknown
    assert unknown["to_grid"].shape == (3, 3)


def test_an_unknown_class_is_an_error(picture: str) -> None:
    with pytest.raises(ScanError, match="classes \\['c'\\]"):
        ScanObjectsd("image", ["a"])(
            LoadScand("image")({"image": picture, "scan_id": "s", "boxes": [[1, 1, 2, 2]], "box_labels": ["c"]})
        )


def test_objects_of_a_label_map() -> None:
    codes = np.zeros((8, 9), dtype=int)
    codes[0, 0] = codes[1, 1] = 1  # touch by a corner: one piece
    codes[5:7, 3:8] = 1
    codes[7, 8] = 4
    boxes, labels = boxes_in(codes, [[1], [2], [3, 4]], components=True)
    assert boxes.tolist() == [[0, 0, 2, 2], [5, 3, 7, 8], [7, 8, 8, 9]]
    assert labels.tolist() == [0, 0, 2]
    boxes, labels = boxes_in(codes, [[1], [2], [3, 4]], components=False)
    assert boxes.tolist() == [[0, 0, 7, 8], [7, 8, 8, 9]]
    assert labels.tolist() == [0, 2]
    assert boxes_in(np.zeros((3, 3, 3)), [[1]], components=True)[0].shape == (0, 6)


@pytest.mark.parametrize("spacing", [None, 0.5])
def test_label_maps_of_volumes_stored_in_another_order(tmp_path: Path, spacing: float | None) -> None:
    """The image is stored as L A S and the label map as R A S, and the image may be resampled: boxes are the file's."""
    image, codes = np.zeros((12, 10, 8), dtype=np.int16), np.zeros((12, 10, 8), dtype=np.int16)
    codes[2:5, 3:4, 6:8] = 7
    image[::-1][codes == 7] = 100
    mirrored = np.diag([-1.0, 1, 2, 1])
    mirrored[0, 3] = 11
    nib.save(nib.Nifti1Image(image, mirrored), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(codes, np.diag([1.0, 1, 2, 1])), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "image.nii.gz"), "mask": str(tmp_path / "mask.nii.gz")}
    load = LoadScand("image", spatial_dims=3, spacing=spacing)
    find = ScanObjectsd("image", ["7"], kind="components")
    found = GridBoxesd("image")(find(load(item)))
    assert found["scan_boxes"][0].tolist() == pytest.approx([7, 3, 6, 10, 4, 8], abs=1e-4)
    bright = np.argwhere(found["image"][0].numpy() > 50)
    middle = (bright.min(axis=0) + bright.max(axis=0) + 1) / 2
    box = found["boxes"][0].numpy()
    assert (box[:3] + box[3:]) / 2 == pytest.approx(middle, abs=1.0)


def test_a_label_map_of_another_size_is_an_error(tmp_path: Path, picture: str) -> None:
    Image.fromarray(np.ones((20, 20), dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ScanError, match="covers"):
        ScanObjectsd("image", ["1"], kind="codes")(
            LoadScand("image")({"image": picture, "mask": str(tmp_path / "mask.png")})
        )


def test_codes_of_classes() -> None:
    assert code_groups(["1", "3"]) == [[1], [3]]
    assert code_groups(["lesion"], "{lesion: [4, 5]}") == [[4, 5]]
    with pytest.raises(ValueError, match="--object_codes"):
        code_groups(["lesion"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures with boxes of two categories, one without any, and label maps."""
    with open(tmp_path / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "mask"])
        for index, split in enumerate(("train", "train", "val", "test")):
            Image.fromarray(np.full((20, 20), index, dtype=np.uint8)).save(tmp_path / f"s{index}.png")
            codes = np.zeros((20, 20), dtype=np.uint8)
            codes[3:6, 4:9] = 2 + index
            Image.fromarray(codes).save(tmp_path / f"m{index}.png")
            writer.writerow([f"s{index}.png", split, f"m{index}.png"])
    images = {"train": [0, 1], "val": [2], "test": [3]}
    for split, indices in images.items():
        content = {
            "images": [{"id": index, "file_name": f"s{index}.png", "width": 20, "height": 20} for index in indices],
            "categories": [{"id": 1, "name": "round"}, {"id": 2, "name": "flat"}],
            "annotations": [
                {"id": index, "image_id": index, "category_id": 1 + index % 2, "bbox": [4, 3, 5, 3]}
                for index in indices
                if index != 1
            ],
        }
        (tmp_path / f"coco_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_kinds_classes_and_scans(folder: Path) -> None:
    datalist = load_datalist(folder)
    assert object_kind(datalist) == "boxes"
    assert object_classes(datalist, "boxes") == ["flat", "round"]
    assert object_classes(datalist, "components") == ["2", "3"]  # of the training scans
    assert object_classes(datalist, "codes", "{lesion: [2, 3, 4, 5]}") == ["lesion"]
    train = labelled_scans(datalist, "train", "boxes")
    assert [item["boxes"] for item in train] == [[[4.0, 3.0, 5.0, 3.0]], []]
    assert len(labelled_scans(datalist, "train", "boxes", count=1)) == 1
    assert [sorted(item) for item in any_scans(datalist)] == [["image", "scan_id"]] * 4
    with pytest.raises(ValueError, match="--objects"):
        object_kind(datalist, "circles")


def test_checks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    datalist = load_datalist(folder)
    check_detection(datalist, "boxes", ["flat", "round"], 2, 1, [16, 16], {})
    assert "'train' has no box of ['flat']" in caplog.text
    check_detection(datalist, "boxes", [], 2, 1, [16, 16], {}, model="model.pt")
    with pytest.raises(ValueError, match="3 numbers for 2D"):
        check_detection(datalist, "boxes", ["flat"], 2, 1, [16, 16, 16], {})
    with pytest.raises(ValueError, match="--key_score"):
        check_detection(datalist, "boxes", ["flat"], 2, 1, [16, 16], {}, key_score="dice")
    for item in datalist.split("val"):
        item["boxes"], item["box_labels"] = [], []
    with pytest.raises(ValueError, match="'val' has a box"):
        check_detection(datalist, "boxes", ["flat"], 2, 1, [16, 16], {})
    for item in datalist.split("test"):
        del item["boxes"]
    for item in datalist.split("val"):
        item["boxes"], item["box_labels"] = [[1, 1, 2, 2]], ["flat"]
    with pytest.raises(ValueError, match="'test' has objects told"):
        check_detection(datalist, "boxes", ["flat"], 2, 1, [16, 16], {})


def test_label_maps_that_cannot_be_read_leave_the_classes_to_the_others(tmp_path: Path) -> None:
    """With --skip_bad true their scans are left out, else the dataset names them."""
    codes = np.zeros((30, 40), dtype=np.uint8)
    codes[5:9, 5:9] = 3
    for name in ("good", "bad"):
        Image.fromarray(codes).save(tmp_path / f"{name}.png")
        Image.fromarray(codes).save(tmp_path / f"{name}_mask.png")
    (tmp_path / "bad_mask.png").write_bytes(b"no picture")
    rows = [f"{name}.png,train,{name}_mask.png" for name in ("bad", "good")]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,split,mask", *rows]) + "\n")
    assert object_classes(load_datalist(tmp_path), "components") == ["3"]


def test_scans_without_known_objects_are_named(folder: Path) -> None:
    datalist = load_datalist(folder)
    for item in datalist.items:
        item.pop("mask", None)
    with pytest.raises(ScanError, match=rf"{folder}: no scan of the split 'test' has objects told \(codes\)"):
        labelled_scans(datalist, "test", "codes")
