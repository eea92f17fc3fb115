# SPDX-License-Identifier: Apache-2.0
"""Every other layout of a data set, and what is passed over in it."""

from __future__ import annotations

import json
from collections import Counter

import nibabel as nib
import pytest

from datasets import Datalist, LoadScand, ScanError, load_datalist
from datasets.phantoms import ensure_phantoms


def _splits(datalist: Datalist) -> dict[str, str]:
    return {item["scan_id"]: item["split"] for item in datalist.items}


def _decathlon(root, **lists):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(lists))
    return root


def test_decathlon(make, tmp_path):
    for name in ("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "imagesTs/c.nii.gz"):
        make.nifti(tmp_path / name)
    _decathlon(
        tmp_path,
        labels={"0": "background", "1": "tumour"},
        training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        validation=[{"image": "imagesTr/b.nii.gz", "label": 1}],
        test=["./imagesTs/c.nii.gz"],
    )
    datalist = load_datalist(tmp_path)
    assert (datalist.layout, datalist.spatial_dims, datalist.classes) == ("decathlon", 3, ["tumour"])
    assert _splits(datalist) == {
        "imagesTr/a.nii.gz": "train",
        "imagesTr/b.nii.gz": "val",
        "imagesTs/c.nii.gz": "test",
    }
    assert datalist.items[0]["mask"] == str(tmp_path / "labelsTr" / "a.nii.gz")


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"training": ["../a.nii"]}, r"training\[0\]: the path '../a.nii' leaves"),
        ({"training": [{"image": "/a.nii"}]}, r"training\[0\]: the path '/a.nii' leaves"),
        ({"training": [{"image": "a.png", "label": "../m.png"}]}, r"training\[0\]: the path '../m.png' leaves"),
        ({"training": ["no.nii", "gone.nii"]}, "2 files do not exist"),
        ({"training": ["a.png"], "test": ["a.png"]}, "listed twice"),
        ({"training": [{"image": ["a.png", "b.png"]}]}, r"training\[0\]: no path of one image"),
        ({"training": [{"image": "a.png", "label": [1, 2]}]}, r"label \[1, 2\]"),
        ({"training": []}, "lists no scan"),
        ({"name": "something else"}, "no Decathlon datalist"),
    ],
)
def test_mistakes_of_a_decathlon_list(make, tmp_path, lists, words):
    make.png(tmp_path / "set" / "a.png")
    with pytest.raises(ScanError, match=words) as caught:
        load_datalist(_decathlon(tmp_path / "set", **lists))
    assert caught.value.path.endswith("dataset.json")


def test_text_that_is_no_json(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ScanError, match="not readable as JSON"):
        load_datalist(tmp_path)


def test_class_folders_are_split_alike_and_the_same_each_time(make, tmp_path):
    for index in range(20):
        make.png(tmp_path / "ill" / f"{index}.png")
        make.png(tmp_path / "well" / "deeper" / f"{index}.png")
    first, again = load_datalist(tmp_path), load_datalist(tmp_path)
    assert (first.layout, first.classes) == ("class folders", ["ill", "well"])
    assert _splits(first) == _splits(again)
    counts = Counter((item["label_name"], item["split"]) for item in first.items)
    assert {counts[name, split] for name in first.classes for split in ("val", "test")} == {3}
    assert _splits(load_datalist(tmp_path, seed=1)) != _splits(first)


def test_small_classes_have_a_scan_in_every_split(make, tmp_path):
    for index in range(3):
        make.png(tmp_path / "a" / f"{index}.png")
        make.png(tmp_path / "b" / f"{index}.png")
    assert Counter(item["split"] for item in load_datalist(tmp_path).items) == {"train": 2, "val": 2, "test": 2}


def test_class_folders_in_split_folders(make, tmp_path):
    for name in ("train/x/1.png", "train/y/1.png", "Validation/x/2.png", "test/y/3.png"):
        make.png(tmp_path / name)
    datalist = load_datalist(tmp_path)
    assert datalist.classes == ["x", "y"]
    assert Counter(item["split"] for item in datalist.items) == {"train": 2, "val": 1, "test": 1}


def test_split_folders_without_classes(make, tmp_path):
    make.png(tmp_path / "train" / "1.png")
    make.png(tmp_path / "test" / "1.png")
    datalist = load_datalist(tmp_path)
    assert datalist.classes == []
    assert len(datalist.split("train")) == len(datalist.split("test")) == 1


def test_folders_of_one_scan_each_are_patients_not_classes(make, tmp_path):
    for name in ("p1", "p2", "p3"):
        make.nifti(tmp_path / name / "t1.nii.gz")
    datalist = load_datalist(tmp_path)
    assert (datalist.layout, datalist.classes, datalist.spatial_dims) == ("plain folder", [], 3)


def test_plain_folder_and_what_is_passed_over(make, tmp_path, messages):
    for name in ("a.png", "B.JPG", "deeper/c.jpeg", ".hidden.png", "._a.png", ".cache/d.png"):
        make.png(tmp_path / name)
    for name in ("notes.docx", "movie.mp4", "README.md", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"x")
    datalist = load_datalist(tmp_path)
    assert _splits(datalist) == {"B.JPG": "train", "a.png": "train", "deeper/c.jpeg": "train"}
    expected = "6 files are no scans and were ignored (1 DICOM directory, 3 hidden, 1 with extension '.docx', 1 with"
    assert expected in messages()


def test_one_scan_is_a_data_set(make, tmp_path):
    make.nifti(tmp_path / "only.nii")
    datalist = load_datalist(tmp_path)
    assert [len(datalist.split(name)) for name in ("train", "val", "test")] == [1, 0, 0]
    with pytest.raises(ScanError, match=r"2 scans are needed in the split 'train', found 1 .*val 0"):
        datalist.require("train", 2)
    assert datalist.require("train") == datalist.items
    with pytest.raises(ValueError, match="Unknown split 'tests'; known: train, val, test"):
        datalist.split("tests")


def test_folders_without_scans(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ScanError, match=r"no scan was found here\. Accepted are \.nii, \.nii\.gz, \.nrrd"):
        load_datalist(tmp_path)
    with pytest.raises(ScanError, match=r"does not exist.*--dataset_dir"):
        load_datalist(tmp_path / "nowhere")
    with pytest.raises(ScanError, match="it is a file"):
        load_datalist(tmp_path / "notes.txt")


def test_dimensions_come_from_the_first_readable_scan(make, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    make.nifti(tmp_path / "b.nii.gz")
    assert load_datalist(tmp_path).spatial_dims == 3
    (tmp_path / "b.nii.gz").write_bytes(b"\x1f\x8b no volume")
    with pytest.raises(ScanError, match=r"a\.nii\.gz: the file is empty"):
        load_datalist(tmp_path)


def test_dicom_series_several_in_a_folder_and_single_files(make, tmp_path):
    make.series(tmp_path / "patient" / "t1")
    make.series(tmp_path / "both", "1.2.826.0.1.3680043.8.498.11")
    make.series(tmp_path / "both", "1.2.826.0.1.3680043.8.498.12", heights=(0, 1))
    make.dicom(tmp_path / "single.dcm", "1.2.826.0.1.3680043.8.498.13")
    make.dicom(tmp_path / "extensionless", "1.2.826.0.1.3680043.8.498.14")
    datalist = load_datalist(tmp_path)
    assert datalist.layout == "DICOM series"
    assert datalist.spatial_dims == 3
    assert {item["scan_id"]: item.get("series_uid") for item in datalist.items} == {
        "patient/t1": "1.2.826.0.1.3680043.8.498.7",
        "both/1.2.826.0.1.3680043.8.498.11": "1.2.826.0.1.3680043.8.498.11",
        "both/1.2.826.0.1.3680043.8.498.12": "1.2.826.0.1.3680043.8.498.12",
        "single.dcm": None,
        "extensionless": None,
    }


def test_a_series_in_the_root_is_named_by_its_identifier(make, tmp_path):
    (item,) = load_datalist(make.series(tmp_path)).items
    assert item["scan_id"] == item["series_uid"] == "1.2.826.0.1.3680043.8.498.7"


def test_dicom_classes_in_split_folders(make, tmp_path):
    for index, name in enumerate(("train/x/a.dcm", "train/y/b.dcm", "test/x/c.dcm")):
        make.dicom(tmp_path / name, f"1.2.826.0.1.3680043.8.498.2{index}")
    assert load_datalist(tmp_path).classes == ["x", "y"]


def test_phantoms_are_made_on_first_use(monkeypatch, make, tmp_path):
    calls = []

    def ensure(kind, dims, root):
        calls.append((kind, dims, root))
        make.png(root / "a.png")
        return make.manifest(root, "a.png,ring,train,brain tumor", header="file,label,split,prompt")

    monkeypatch.setattr("datasets.phantoms.ensure_phantoms", ensure)
    datalist = load_datalist("phantom:brain_mri_2d", phantom_root=tmp_path)
    assert calls == [("brain_mri", 2, tmp_path)]
    assert datalist.items[0]["prompt"] == "brain tumor"
    with pytest.raises(ValueError, match=r"Unknown phantom 'phantom:brain'; write for example phantom:brain_mri_2d"):
        load_datalist("phantom:brain")


def test_phantoms_of_ct_are_kept_as_stored(tmp_path):
    ensure_phantoms("chest_ct", 2, tmp_path, size=32, counts={"train": 2, "val": 2, "test": 2})
    datalist = load_datalist(tmp_path / "chest_ct_2d")
    assert (datalist.layout, datalist.spatial_dims, len(datalist.classes)) == ("manifest", 2, 2)
    item = datalist.items[0]
    assert {"mask", "prompt", "label", "group"} <= set(item)
    loaded = LoadScand(spatial_dims=2, label_keys="mask")(item)
    stored = nib.load(item["image"]).get_fdata()[:, :, 0]
    assert loaded["image"][0].tolist() == stored.tolist(), "it lies as one looks at it"
    assert loaded["image"].min() < -900, "Hounsfield units"
    assert loaded["mask"].shape == loaded["image"].shape


@pytest.mark.parametrize("name", ["phantom:brain_mri_4d", "phantom:liver_2d", "phantom:chest_xray_3d"])
def test_unknown_phantoms_leave_nothing_behind(tmp_path, name):
    with pytest.raises(ValueError, match=r"brain_mri|exists in 2D"):
        load_datalist(name, phantom_root=tmp_path)
    assert list(tmp_path.iterdir()) == []
