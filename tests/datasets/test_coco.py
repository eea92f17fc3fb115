# SPDX-License-Identifier: Apache-2.0
"""Boxes, categories and outlines of COCO files, and boxes of volumes."""

from __future__ import annotations

import json

import pytest

from datasets import ScanError, load_datalist

TRIANGLE = [[0, 0, 3, 0, 0, 3]]
CODE = {"size": [3, 4], "counts": [4, 2, 6]}


@pytest.fixture
def root(make, tmp_path):
    for name in ("a.png", "sub/b.png"):
        make.png(tmp_path / name)
    return make.manifest(
        tmp_path, "a.png,ill,train,1 1 1 1", "sub/b.png,,train,", header="file,label,split,box_xywh"
    )  # fmt: skip


def _write(path, annotations, **changes):
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "nodule"}, {"id": 1, "name": "cyst"}, {"id": 2, "name": "unused"}],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))


def _annotation(**changes):
    return {"image_id": 7, "category_id": 3, "bbox": [0, 0, 3, 3], "iscrowd": 0, "segmentation": TRIANGLE, **changes}


def test_boxes_categories_and_outlines_are_parallel(root):
    _write(
        root / "coco_train.json",
        [_annotation(), _annotation(category_id=1, bbox=[1, 0, 2, 1], segmentation=CODE), _annotation(segmentation=[])],
    )
    datalist = load_datalist(root)
    first, second = datalist.items
    assert first["boxes"] == [[0, 0, 3, 3], [1, 0, 2, 1], [0, 0, 3, 3]]
    assert first["box_labels"] == ["nodule", "cyst", "nodule"]
    assert first["outlines"] == [TRIANGLE, CODE, None]
    assert (second["boxes"], second["box_labels"], second["outlines"]) == ([], [], [])
    assert datalist.categories == ["cyst", "nodule"], "only what occurs"
    assert datalist.classes == ["ill"], "classes of scans are another matter"


def test_boxes_of_the_manifest_have_the_scans_class(root):
    datalist = load_datalist(root)
    first, second = datalist.items
    assert (first["boxes"], first["box_labels"], first["outlines"]) == ([[1, 1, 1, 1]], ["ill"], [None])
    assert "boxes" not in second
    assert datalist.categories == ["ill"]


def test_without_any_category_an_object_is_an_object(root):
    annotations = [_annotation(category_id=None), _annotation(image_id=9)]
    _write(root / "coco_train.json", annotations, categories=[])
    assert [item["box_labels"] for item in load_datalist(root).items] == [["ill"], ["object"]]


def test_crowds_are_left_out_with_a_word(root, messages):
    _write(root / "coco_train.json", [_annotation(iscrowd=1), _annotation(bbox=[1, 1, 1, 1])])
    assert load_datalist(root).items[0]["boxes"] == [[1, 1, 1, 1]]
    assert "1 annotations of crowds" in messages()


def test_coco_files_of_another_name_come_first(root):
    _write(root / "coco_train.json", [_annotation()])
    _write(root / "lungs" / "my_train.json", [_annotation(image_id=9, bbox=[2, 2, 1, 1])])
    first, second = load_datalist(root, coco="lungs/my_{split}.json").items
    assert (first["boxes"], second["boxes"]) == ([], [[2, 2, 1, 1]])


def test_coco_files_beside_folders_without_a_manifest(make, tmp_path):
    for name in ("train/a.png", "val/b.png"):
        make.png(tmp_path / name)
    _write(tmp_path / "all.json", [_annotation()])
    first, second = load_datalist(tmp_path, coco="all.json").items
    assert (first["boxes"], second["boxes"]) == ([[0, 0, 3, 3]], [])


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("my_{split}.json", "1 files do not exist: .*my_train.json"),
        ("../{split}.json", r"coco: the path '../train.json' leaves"),
    ],
)
def test_coco_files_that_cannot_be_used(root, pattern, words):
    with pytest.raises(ScanError, match=words):
        load_datalist(root, coco=pattern)


def test_a_coco_file_of_other_scans_is_refused(root):
    _write(root / "other.json", [], images=[{"id": 1, "file_name": "z.png"}])
    with pytest.raises(ScanError, match=r"other\.json: it lists none of the 2 scans of the split 'train'.*'a\.png'"):
        load_datalist(root, coco="other.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 1}, r"annotations\[1\]: image_id 1 is not listed"),
        ({"category_id": 5}, r"annotations\[1\]: category_id 5 is not listed"),
        ({"bbox": [1, 2, 3]}, r"annotations\[1\]: a box is x y width height"),
        ({"bbox": [1, 2, 3, -1]}, r"annotations\[1\]: a box is"),
        ({"bbox": None}, r"annotations\[1\]: "),
        ({"segmentation": [[0, 0, 1, 1]]}, r"annotations\[1\]: a polygon is"),
        ({"segmentation": [[0, 0, 1, 1, 2, 2, 3]]}, r"annotations\[1\]: a polygon is"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, r"annotations\[1\]: "),
        ({"segmentation": {"size": [3, 4], "counts": [4, 2]}}, "add up to 6 pixels"),
        ({"segmentation": {"size": [3], "counts": [3]}}, "`size` of height and width"),
        ({"segmentation": {"size": [3, 4], "counts": [-1, 13]}}, "`counts`"),
        ({"segmentation": {"size": [3, 4]}}, "`counts`"),
    ],
)
def test_mistakes_are_named_with_file_and_entry(root, change, words):
    _write(root / "coco_train.json", [_annotation(), _annotation(**change)])
    with pytest.raises(ScanError, match=words) as caught:
        load_datalist(root)
    assert caught.value.path.endswith("coco_train.json")


def test_a_picture_without_a_name(root):
    _write(root / "coco_train.json", [], images=[{"id": 1}])
    with pytest.raises(ScanError, match=r"images\[0\]: 'file_name' is missing"):
        load_datalist(root)


def test_boxes_of_volumes(make, tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        make.nifti(tmp_path / name)
    header = "file,label,split,box_xyzwhd"
    rows = ["a.nii.gz,nodule,train,0 0 0 2 1 1 1 1 1 2 2 2", "b.nii.gz,nodule,val,"]
    first, second = load_datalist(make.manifest(tmp_path, *rows, header=header)).items
    assert first["boxes"] == [[0, 0, 0, 2, 1, 1], [1, 1, 1, 2, 2, 2]]
    assert first["box_labels"] == ["nodule", "nodule"]
    assert "boxes" not in second
    make.manifest(tmp_path, "a.nii.gz,nodule,train,0 0 0 2 1", header=header)
    with pytest.raises(ScanError, match=r"line 2: box_xyzwhd: a box is x y z width height depth"):
        load_datalist(tmp_path)


def test_boxes_of_other_dimensions_than_the_scans(make, tmp_path):
    make.nifti(tmp_path / "a.nii.gz")
    make.manifest(tmp_path, "a.nii.gz,x,train,0 0 1 1", header="file,label,split,box_xywh")
    with pytest.raises(ScanError, match=r"a.nii.gz: boxes of 4 numbers on 3D scans"):
        load_datalist(tmp_path)


def test_boxes_in_millimetres_are_refused(make, tmp_path):
    make.nifti(tmp_path / "a.nii.gz")
    entry = {"image": "a.nii.gz", "box": [[1, 2, 3, 4, 5, 6]], "label": [0]}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    with pytest.raises(ScanError, match=r"training\[0\]: boxes \(`box`\), in millimetres.*box_xyzwhd"):
        load_datalist(tmp_path)


def test_real_outlines(data_root):
    lungs = load_datalist(data_root / "cxr_lungs", coco="coco_lungs_{split}.json")
    assert lungs.categories == ["left_lung", "right_lung"]
    assert all(sorted(item["box_labels"]) == lungs.categories for item in lungs.items)
    assert all("mask" in item for item in lungs.items)
    brain = load_datalist(data_root / "brain_mri_cheng")
    assert brain.categories == brain.classes
    assert all(outline for item in brain.items for outline in item["outlines"])
    assert all(item["box_labels"] == [item["label_name"]] for item in brain.items)
