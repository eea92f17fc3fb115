# SPDX-License-Identifier: Apache-2.0
"""Folders with a manifest.csv: what it may say, and how its mistakes are named."""

from __future__ import annotations

import json

import pytest

from datasets import ScanError, load_datalist


@pytest.fixture
def root(make, tmp_path):
    for name in ("a.png", "b.png", "sub/c.png", "mask.png"):
        make.png(tmp_path / "set" / name)
    return tmp_path / "set"


def test_items_classes_and_splits(make, root):
    make.manifest(
        root,
        "b.png,tumour,train,p1,,,brain tumor",
        "a.png,healthy,test,p2,mask.png,1 2 3 4,",
        "sub/c.png,,val,,,,",
        header="file,label,split,group,mask,box_xywh,prompt",
    )
    datalist = load_datalist(root)
    assert (datalist.layout, datalist.classes, datalist.spatial_dims) == ("manifest", ["healthy", "tumour"], 2)
    assert datalist.split("train") == [
        {"image": str(root / "b.png"), "scan_id": "b.png", "split": "train", "label": 1, "label_name": "tumour",
         "group": "p1", "prompt": "brain tumor"}
    ]  # fmt: skip
    (test,) = datalist.split("test")
    assert (test["mask"], test["boxes"]) == (str(root / "mask.png"), [[1.0, 2.0, 3.0, 4.0]])
    (unlabelled,) = datalist.split("val")
    assert set(unlabelled) == {"image", "scan_id", "split"}
    assert unlabelled["scan_id"] == "sub/c.png"


def test_another_label_column_and_further_columns(make, root):
    make.manifest(root, "a.png,fine,train,7,sick", header="file,label,split,anything,label_binary")
    assert load_datalist(root, label_column="label_binary").classes == ["sick"]


def test_only_the_usual_label_column_may_be_absent(make, root, messages):
    make.manifest(root, "a.png,train", header="file,split")
    datalist = load_datalist(root)
    assert (datalist.classes, set(datalist.items[0])) == ([], {"image", "scan_id", "split"})
    assert "no column 'label', so the scans are unlabelled (columns: file,split)" in messages()
    with pytest.raises(ScanError, match="line 1: the column 'label_binary' is missing, found file,split"):
        load_datalist(root, label_column="label_binary")


def test_byte_order_mark_spaces_and_blank_lines(make, root):
    (root / "manifest.csv").write_bytes("\ufefffile, label, split\n\na.png, x, train \n\n".encode())
    assert [item["label_name"] for item in load_datalist(root).items] == ["x"]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["a.png,x"], "file,label", r"line 1: the column 'split' is missing, found file,label.*Columns are"),
        (["a.png,x,train,val"], "file,label,split,split", r"line 1: the column 'split' is there twice"),
        (["a.png;x;train"], "file;label;split", "line 1: the column .* missing, found file;label;split"),
        (["a.png,x,train", "b.png,x,training"], None, r"line 3: split 'training'.*train, val, test"),
        (["a.png,x,train", "b.png,x,val", "a.png,y,val"], None, r"line 4: 'a.png' is listed twice, first in line 2"),
        (["a.png,x,train", "sub/../a.png,x,val"], None, r"line 3: the path 'sub/../a.png' leaves"),
        (["a.png,x,train", "./a.png,x,val"], None, "line 3: 'a.png' is listed twice"),
        (["../outside.png,x,train"], None, r"line 2: the path '\.\./outside.png' leaves the folder"),
        (["/etc/passwd,x,train"], None, "line 2: the path '/etc/passwd' leaves the folder"),
        ([r"C:\scans\a.png,x,train"], None, "line 2: the path .* leaves the folder"),
        ([r"..\a.png,x,train"], None, "line 2: the path .* leaves the folder"),
        (["a.png,x"], None, "line 2: fewer fields"),
        (["a.png,x,train,y"], None, "line 2: more fields"),
        ([",x,train"], None, "line 2: the column 'file' is empty"),
        (["gone.png,x,train", "a.png,x,train", "lost.png,x,val"], None, "2 files do not exist: .*gone.png, .*lost.png"),
        ([], None, "lists no scan"),
        (["a.png,x,train,1 2 3"], "file,label,split,box_xywh", "line 2: box_xywh: .* pixels"),
        (["a.png,x,train,1 2 3 0"], "file,label,split,box_xywh", "line 2: box_xywh"),
        (["a.png,x,train,1 2 3 many"], "file,label,split,box_xywh", "line 2: box_xywh"),
        (["a.png,x,train,no.png"], "file,label,split,mask", "1 files do not exist: .*no.png"),
        (["a.png,x,train,../m.png"], "file,label,split,mask", "line 2: the path .* leaves"),
        (["a.png,x,train,../c.json"], "file,label,split,mask", "line 2: the path .* leaves"),
        (["a.png,x,train,no.json"], "file,label,split,mask", "1 files do not exist: .*no.json"),
    ],
)
def test_mistakes_are_named_with_manifest_and_line(make, root, rows, header, words):
    make.manifest(root, *rows, **({"header": header} if header else {}))
    with pytest.raises(ScanError, match=words) as caught:
        load_datalist(root)
    assert caught.value.path.endswith("manifest.csv")
    assert caught.value.remedy


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(make, root, tmp_path):
    make.png(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inner.png").symlink_to(root / "a.png")
    assert len(load_datalist(make.manifest(root, "inner.png,x,train")).items) == 1
    with pytest.raises(ScanError, match=r"line 2: the path 'link.png' is a link that leaves"):
        load_datalist(make.manifest(root, "link.png,x,train"))


def test_text_that_is_no_utf8(root):
    (root / "manifest.csv").write_bytes(b"file,label,split\na.png,\xff\xfe,train\n")
    with pytest.raises(ScanError, match="UTF-8"):
        load_datalist(root)


def _coco(path, *files, boxes=()):
    images = [{"id": index, "file_name": name} for index, name in enumerate(files)]
    annotations = [{"image_id": index, "bbox": box} for index, box in boxes]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def test_boxes_of_coco_files(make, root):
    _coco(root / "coco_train.json", "c.png", "a.png", boxes=[(0, [1, 1, 2, 2]), (0, [0, 0, 1, 1])])
    _coco(root / "own.json", "b.png", boxes=[(0, [3, 1, 2, 2])])
    make.manifest(
        root, "sub/c.png,x,train,,9 9 9 9", "a.png,x,train,,", "b.png,x,val,own.json,",
        "mask.png,x,test,,5 5 1 1 6 6 2 2",
        header="file,label,split,mask,box_xywh",
    )  # fmt: skip
    boxes = {item["scan_id"]: item.get("boxes") for item in load_datalist(root).items}
    assert boxes["sub/c.png"] == [[1, 1, 2, 2], [0, 0, 1, 1]], "the file beside the manifest may hold several"
    assert boxes["a.png"] == [], "looked at, nothing found"
    assert boxes["b.png"] == [[3, 1, 2, 2]]
    assert boxes["mask.png"] == [[5, 5, 1, 1], [6, 6, 2, 2]]
    assert "mask" not in load_datalist(root).items[2]


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"images": [], "annotations": [{"image_id": 3, "bbox": [1]}]}'])
def test_a_damaged_coco_file_is_named(make, root, content):
    (root / "coco_train.json").write_text(content)
    with pytest.raises(ScanError, match=r"coco_train\.json"):
        load_datalist(make.manifest(root, "a.png,x,train"))
