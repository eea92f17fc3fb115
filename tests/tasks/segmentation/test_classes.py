# SPDX-License-Identifier: Apache-2.0
"""Which codes of the label maps are which class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from custom.tasks.segmentation import EncodeLabelsd, LabelClasses, codes_in, label_classes
from custom.tasks.segmentation.classes import check_codes
from datasets import LoadScand
from datasets.errors import ScanError


def write(path: Path, codes: list[int]) -> dict:
    picture = np.zeros((4, 6), dtype=np.uint8)
    picture.flat[: len(codes)] = codes
    Image.fromarray(picture).save(path)
    return {"label": str(path)}


def test_codes_with_one_name_are_one_class() -> None:
    classes = label_classes({2: "oedema", 4: "tumor", 5: "tumor"}, [], 2)
    assert classes.names == ["oedema", "tumor"]
    assert classes.num_channels == 3
    assert classes.encode(torch.tensor([0, 1, 2, 3, 4, 5])).tolist() == [0, 0, 1, 0, 2, 2]
    assert classes.codes == [0, 2, 4]
    decoded = classes.decode(np.array([0, 1, 2]))
    assert decoded.tolist() == [0, 2, 4]
    assert decoded.dtype == np.uint8


def test_all_codes_from_one_on() -> None:
    classes = label_classes("{'>=2': nodule}", [], 2)
    assert classes.encode(torch.tensor([0, 1, 2, 3, 4])).tolist() == [0, 0, 1, 1, 1]
    again = classes.encode(torch.from_numpy(classes.decode(np.array([0, 1])).astype(np.int32)))
    assert again.tolist() == [0, 1], "a written map read by the same classes gives the same classes"


def test_large_codes_keep_their_value() -> None:
    classes = label_classes({"1000": "atlas region"}, [], 3)
    assert classes.decode(np.array([0, 1])).tolist() == [0, 1000]
    assert classes.decode(np.array([1])).dtype == np.uint16


def test_classes_are_found_in_the_training_label_maps(tmp_path: Path) -> None:
    items = [write(tmp_path / "a.png", [0, 3]), write(tmp_path / "b.png", [1, 3, 7])]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    assert codes_in([*items, {"label": str(tmp_path / "broken.png")}], 2) == [1, 3, 7]
    classes = label_classes(None, items, 2, tmp_path, other_codes="error")
    assert dict(classes.rules) == {"1": "1", "3": "3", "7": "7"}


@pytest.mark.parametrize("labels", [{"0": "background", "1": "anterior", "3": "rest"}, {"anterior": 1, "rest": 3}])
def test_names_come_from_the_decathlon(tmp_path: Path, labels: dict) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    classes = label_classes(None, [write(tmp_path / "a.png", [0, 1, 3, 4])], 2, tmp_path)
    assert dict(classes.rules) == {"1": "anterior", "3": "rest", "4": "4"}


def test_a_code_that_no_training_scan_has_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.png", [1]), write(tmp_path / "b.png", [1, 9])
    load = LoadScand("image", 2, label_keys="label", allow_missing_keys=True)
    strict = EncodeLabelsd("label", label_classes(None, [train], 2, other_codes="error"))
    assert strict(load(train))["label"].max() == 1
    with pytest.raises(ScanError, match=r"b\.png.*\[9\].*--classes"):
        strict(load(other))
    lenient = EncodeLabelsd("label", label_classes(None, [train], 2))
    assert lenient(load(other))["label"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("classes", [{"lesion": "4"}, {0: "background"}, {"-1": "x"}, "lesion"])
def test_what_is_no_code_is_refused(classes: object) -> None:
    with pytest.raises(ValueError, match="--classes"):
        label_classes(classes, [], 2)


def test_label_maps_of_zeros_and_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to segment"):
        label_classes(None, [write(tmp_path / "a.png", [0])], 2)
    with pytest.raises(ValueError, match="other_codes"):
        label_classes({1: "a"}, [], 2, other_codes="ignore")
    assert LabelClasses({"1": "a"}).names == ["a"]


def test_without_label_maps_the_message_says_where_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no training scan has a label map.*column `mask` of manifest\.csv"):
        label_classes(None, [], 2, tmp_path)


def test_codes_without_names_are_answered_with_a_fitting_example() -> None:
    with pytest.raises(ValueError, match=r"for example --classes .\{1: anterior, 2: posterior\}.; got '4, 5'"):
        label_classes("4, 5", [], 2)


def test_a_class_of_which_no_training_label_map_has_a_code_is_mentioned(tmp_path: Path, caplog) -> None:
    items = [write(tmp_path / "a.png", [0, 4]), write(tmp_path / "b.png", [5])]
    check_codes(LabelClasses({"4": "core", "5": "rim"}, others_are_background=False), items, 2)
    assert not caplog.text
    check_codes(LabelClasses({"4": "core", "9": "lesion"}), items, 2)
    assert "2 of 2 training scans, those looked at, hold no code of lesion" in caplog.text
    assert "codes that occur: [4, 5]" in caplog.text
    with pytest.raises(ValueError, match=r"no code of lesion.*codes that occur: \[4, 5\]"):
        check_codes(LabelClasses({"9": "lesion", ">=10": "rest"}), items, 2)


def test_of_many_scans_some_are_looked_at(tmp_path: Path, caplog) -> None:
    item, other = write(tmp_path / "a.png", [4]), write(tmp_path / "b.png", [9])
    check_codes(LabelClasses({"9": "lesion"}), [item] * 99 + [other], 2)
    assert "20 of 100 training scans" in caplog.text  # a warning, as the others may have it
