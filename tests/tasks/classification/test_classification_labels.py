# SPDX-License-Identifier: Apache-2.0
"""Labels of scans: one class, several names in a cell, columns of 0 and 1; class weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from custom.tasks import check_images, scan_groups
from custom.tasks.classification import (
    ScanLabels,
    check_classification,
    class_weights,
    classification_loss,
    labelled_items,
    new_items,
)
from datasets import Datalist, ScanError

SINGLE = ["a", "b"] * 3
SPLITS = ["train", "train", "val", "val", "test", "test"]


def datalist(root: Path, columns: dict[str, list[Any]], splits: list[str] = SPLITS) -> Datalist:
    """A folder with a manifest of these columns, as it is listed without reading any scan."""
    names = [f"s{index}.png" for index in range(len(splits))]
    rows = zip(*[[str(cell) for cell in cells] for cells in columns.values()], strict=True)
    lines = [",".join(["file", "split", *columns])]
    lines += [",".join([name, split, *row]) for name, split, row in zip(names, splits, rows, strict=True)]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    items: list[dict[str, Any]] = [
        {"image": str(root / name), "scan_id": name, "split": split, "mask": "m.png"}
        for name, split in zip(names, splits, strict=True)
    ]
    for key, entry in (("label", "label_name"), ("group", "group")):
        for item, cell in zip(items, columns.get(key, []), strict=False):
            item.update({entry: cell} if cell else {})
    classes = sorted({item["label_name"] for item in items if "label_name" in item})
    return Datalist(root, "manifest", items, classes, 2)


def test_one_class_per_scan(tmp_path: Path) -> None:
    labels = ScanLabels(datalist(tmp_path, {"label": ["b", "a", "", "b", "a", "b"]}))
    assert not labels.multi_label
    assert labels.classes == ["a", "b"]
    assert [item["label"] for item in labelled_items(labels, "train", labels.classes)] == [1, 0]
    (only,) = labelled_items(labels, "val", labels.classes)
    assert (only["scan_id"], only["label"]) == ("s3.png", 1)
    assert "mask" not in only


def test_another_column_of_names(tmp_path: Path) -> None:
    labels = ScanLabels(datalist(tmp_path, {"label": SINGLE, "grade": ["x", "y", "x", "", "z", "x"]}), "grade")
    assert labels.classes == ["x", "y", "z"]
    assert [item["scan_id"] for item in labels.items("val", labels.classes)] == ["s2.png"]


def test_several_names_in_a_cell(tmp_path: Path) -> None:
    cells = ["effusion | nodule", "none", "nodule", "", "None", "nodule|nodule"]
    labels = ScanLabels(datalist(tmp_path, {"label": cells}), separator="|")
    assert labels.multi_label
    assert labels.classes == ["effusion", "nodule"]
    assert [item["label"].tolist() for item in labels.items("train", labels.classes)] == [[1, 1], [0, 0]]
    assert [item["label"].tolist() for item in labels.items("val", labels.classes)] == [[0, 1]]
    assert [item["label"].tolist() for item in labels.items("test", labels.classes)] == [[0, 0], [0, 1]]
    assert labels.items("test", labels.classes)[0]["label"].dtype == np.float32


@pytest.mark.parametrize("column", [["nodule", "effusion"], "[nodule, effusion]"])
def test_columns_of_zeros_and_ones(column: Any, tmp_path: Path) -> None:
    marks = {"effusion": [1, 0, "", "1.0", 0, 1], "nodule": [0, 0, "", 1, "0.0", 1]}
    labels = ScanLabels(datalist(tmp_path, {"label": SINGLE, **marks}), column)
    assert labels.multi_label
    assert labels.classes == ["nodule", "effusion"]
    assert [item["label"].tolist() for item in labels.items("train", labels.classes)] == [[0, 1], [0, 0]]
    assert [item["scan_id"] for item in labels.items("val", labels.classes)] == ["s3.png"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("grade", r"manifest\.csv.*'grade' is missing.*--label_column"),
        (["effusion", "grade"], r"manifest\.csv.*'grade' is missing"),
        (["effusion", "nodule"], r"manifest\.csv.*s1\.png.*'nodule' holds '-1'.*Write 1"),
        (["effusion", "partly"], r"s0\.png.*'partly' holds ''.*leave all label columns empty"),
    ],
)
def test_columns_that_cannot_be_read(column: Any, message: str, tmp_path: Path) -> None:
    columns = {"effusion": [1, 0] * 3, "nodule": [0, -1] * 3, "partly": [""] * 6}
    with pytest.raises(ScanError, match=message):
        _ = ScanLabels(datalist(tmp_path, columns), column).names


def test_a_manifest_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    data = datalist(tmp_path, {"grade": ["x", "y"] * 3})
    text = (tmp_path / "manifest.csv").read_text().replace(",", ", ").replace("\n", "\r\n\r\n")
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert ScanLabels(data, "grade").names["s1.png"] == ("y",)


@pytest.mark.parametrize(
    ("column", "separator", "message"),
    [
        (["a", "b"], "|", "must be null"),
        ("label", " ", "label_separator"),
        (["a", "a"], None, "several different ones"),
        ([], None, "several different ones"),
    ],
)
def test_options_that_do_not_fit(column: Any, separator: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ScanLabels(datalist(tmp_path, {"label": SINGLE}), column, separator)


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    labels = ScanLabels(datalist(tmp_path, {"group": [""] * 6}), ["effusion", "nodule"])
    assert labels.multi_label
    assert labels.classes == ["effusion", "nodule"]


def test_a_class_that_the_model_does_not_know(tmp_path: Path) -> None:
    labels = ScanLabels(datalist(tmp_path, {"label": ["a", "b", "a", "c", "a", "b"]}))
    with pytest.raises(ValueError, match=r"'val' has scans of \['c'\].*\['a', 'b'\].*--label_column"):
        labels.items("val", ["a", "b"])


def test_scans_without_labels_and_groups(tmp_path: Path) -> None:
    data = datalist(tmp_path, {"label": SINGLE, "group": ["p", "q", "", "r", "s", "t"]})
    assert [item["scan_id"] for item in new_items(data)] == [f"s{index}.png" for index in range(6)]
    assert [set(item) for item in new_items(data, "val")] == [{"image", "scan_id"}] * 2
    assert scan_groups(data) == {"s0.png": "p", "s1.png": "q", "s3.png": "r", "s4.png": "s", "s5.png": "t"}


def check(root: Path, columns: dict[str, list[Any]], splits: list[str] = SPLITS, **options: Any) -> None:
    given = {key: options.pop(key) for key in ("column", "separator") if key in options}
    labels = ScanLabels(datalist(root, columns, splits), **given)
    check_classification(labels, options.pop("classes", labels.classes), **options)


@pytest.mark.parametrize(
    ("cells", "splits", "message"),
    [
        ([""] * 6, SPLITS, "no scan has a label.*--label_column"),
        (["a"] * 6, SPLITS, "one class"),
        (SINGLE, ["train", "train", "val", "val", "val", "val"], r"split 'test'.*manifest\.csv"),
        (["a", "b", "", "", "a", "b"], SPLITS, "split 'val'"),
        (["a", "a", "a", "b", "a", "b"], SPLITS, r"'train' has no scan of \['b'\]"),
        (["a", "b", "a", "c", "a", "b"], SPLITS, r"'train' has no scan of \['c'\]"),
        (["a", "b", "b", "b", "a", "b"], SPLITS, "'val' has one class"),
    ],
)
def test_data_that_cannot_be_learned_or_measured(
    cells: list[str], splits: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        check(tmp_path, {"label": cells}, splits)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([0] * 6, r"'train' has no scan of \['two'\]"),
        ([0, 0, 1, 1, 1, 1], r"'train' has no scan of \['two'\]"),
        ([1, 1, 0, 1, 0, 1], r"all 2 scans of the split 'train' have \['two'\]"),
    ],
)
def test_labels_that_all_or_no_training_scans_have(second: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check(tmp_path, {"one": [0, 1] * 3, "two": second}, column=["one", "two"])


def test_labels_that_validation_cannot_judge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(tmp_path, {"one": [0, 1] * 3, "two": [0, 1, 0, 0, 1, 0]}, column=["one", "two"])
    assert "have ['two']" in caplog.text
    with pytest.raises(ValueError, match="no choice is possible"):
        check(tmp_path, {"one": [0, 1, 1, 1, 0, 1], "two": [0, 1, 0, 0, 1, 0]}, column=["one", "two"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_metric": "f1"}, "one class per scan; known: accuracy"),
        ({"key_metric": "accuracy", "separator": "|"}, "several labels per scan; known: macro_auroc"),
        ({"threshold_rule": "best"}, "known: youden, f1"),
        ({"weights": [1, 2, 3]}, "3 numbers for 2 classes.*a, b"),
        ({"train_scans": 1}, r"has no scan of.*\(1 scans\).*--train_scans"),
        ({"train_scans": 3}, "between 1 and 2"),
    ],
)
def test_options_that_cannot_work(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check(tmp_path, {"label": SINGLE}, **options)


def test_good_data_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(tmp_path, {"label": SINGLE, "group": ["p", "q", "r", "s", "t", "p"]}, weights="balanced")
    assert "1 groups (patients) occur in more than one split, e.g. p" in caplog.text
    check(tmp_path, {"label": ["a|b", "b"] * 3})
    assert "--label_separator" in caplog.text


def test_a_trained_model_needs_no_labels(tmp_path: Path) -> None:
    check(tmp_path, {"group": [""] * 6}, classes=["a", "b"], model="model.pt")


@pytest.mark.parametrize(
    ("image_size", "encoder", "message"),
    [
        ((32, 32, 32), {}, r"3 numbers for 2D scans.*--image_size"),
        (64, {}, r'image_size 64 is no list of numbers. Set --image_size "\[64, 64\]"'),
        ("small", {}, "image_size 'small' is no list"),
        ((32, 32), {"encoder": {"spatial_dims": 3, "in_channels": 1}}, "takes 3D images.*scans are 2D"),
        ((32, 32), {"encoder": {"spatial_dims": 2, "in_channels": 3}}, "--channels 3"),
    ],
)
def test_encoder_for_other_images(image_size: Any, encoder: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_images(2, 1, image_size, encoder)


def test_of_patches_the_size_of_whole_scans_does_not_matter() -> None:
    check_images(3, 1, (32, 32), {}, patch_size=[8, 8, 8])
    with pytest.raises(ValueError, match=r"patch_size \[8, 8\] has 2 numbers for 3D scans.*--patch_size"):
        check_images(3, 1, (32, 32, 32), {}, patch_size=[8, 8])


def items(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"label": label} for label in labels]


def test_balanced_weights_are_inverse_frequencies() -> None:
    assert class_weights(items([0, 0, 0, 1]), ["a", "b"], "balanced") == pytest.approx([4 / 6, 4 / 2])
    several = [np.array(row, dtype=np.float32) for row in ([1, 0], [1, 1], [0, 0], [1, 0])]
    assert class_weights(items(several), ["a", "b"], "balanced") == pytest.approx([1 / 3, 3])


@pytest.mark.parametrize(("given", "expected"), [(None, None), ([2, 0.5], [2.0, 0.5]), ("[2, 0.5]", [2.0, 0.5])])
def test_given_weights(given: Any, expected: list[float] | None) -> None:
    assert class_weights(items([0, 1]), ["a", "b"], given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "1 numbers for 2 classes.*a, b"),
        ([1, -1], "positive"),
        ([1, float("inf")], "positive"),
        ([True, 1], "positive"),
        ("often", "null, balanced or a list"),
        (3, "null, balanced or a list"),
    ],
)
def test_weights_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(items([0, 1]), ["a", "b"], given)


def test_balanced_weights_need_every_class() -> None:
    with pytest.raises(ValueError, match=r"no training scan has \['b'\]"):
        class_weights(items([0, 0]), ["a", "b"], "balanced")


def test_losses_weigh_as_written() -> None:
    logits, weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 3.0, 0.5])
    target = torch.tensor([0, 1, 2, 2, 1, 0])
    each = -logits.log_softmax(1)[range(6), target] * weights[target]
    assert torch.allclose(
        classification_loss(False, weights.tolist())(logits, target), each.sum() / weights[target].sum()
    )
    assert torch.allclose(classification_loss(False)(logits, target), functional.cross_entropy(logits, target))
    several = (logits.roll(1) > 0).float()
    each = -(weights * several * logits.sigmoid().log() + (1 - several) * (-logits).sigmoid().log())
    assert torch.allclose(classification_loss(True, weights.tolist())(logits, several), each.mean(), atol=1e-6)
