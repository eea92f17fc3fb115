# SPDX-License-Identifier: Apache-2.0
"""Public sets: from the published layout, in small, to a manifest whose splits keep neighbours together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from datasets import ScanError, load_datalist
from datasets.public import main, prepare_hippocampus, prepare_mednist


@pytest.fixture
def hippocampus(make, tmp_path):
    """Numbers with gaps, in the order of nobody, as the set has them."""
    folder = tmp_path / "Task04_Hippocampus"
    numbers = [*range(1, 80, 3), 2, 5]
    training = []
    for number in numbers:
        name = f"hippocampus_{number:03d}.nii.gz"
        make.nifti(folder / "imagesTr" / name)
        make.nifti(folder / "imagesTr" / f"._{name}")
        make.nifti(folder / "labelsTr" / name, np.ones((5, 4, 3), np.uint8))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {"name": "Hippocampus", "description": "", "reference": "", "licence": "CC-BY-SA 4.0",
               "tensorImageSize": "3D", "modality": {"0": "MRI"}, "labels": {"0": "background"},
               "numTraining": len(numbers), "numTest": 0, "training": training, "test": []}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def mednist(make, tmp_path):
    for label in ("Hand", "HeadCT"):
        for number in range(0, 800, 20):
            make.png(tmp_path / "MedNIST" / label / f"{number:06d}.jpeg")
    (tmp_path / "MedNIST" / "README.md").write_text("x")
    return tmp_path


def test_hippocampus(hippocampus):
    datalist = load_datalist(prepare_hippocampus(hippocampus))
    assert (datalist.layout, datalist.spatial_dims, datalist.classes) == ("manifest", 3, ["hippocampus"])
    assert len(datalist.items) == 29
    assert all("labelsTr" in item["mask"] for item in datalist.items)
    blocks, groups = defaultdict(set), {}
    for item in datalist.items:
        number = int(item["scan_id"][-10:-7])
        blocks[(number - 1) // 10].add(item["split"])
        groups[number] = item["group"]
    assert all(len(splits) == 1 for splits in blocks.values())
    assert groups[1] == groups[2] != groups[4]
    assert {split for splits in blocks.values() for split in splits} == {"train", "val", "test"}


def test_mednist(mednist):
    first = load_datalist(prepare_mednist(mednist)).items
    assert load_datalist(prepare_mednist(mednist)).items == first
    blocks = defaultdict(set)
    for item in first:
        blocks[item["label_name"], int(item["scan_id"][-11:-5]) // 100].add(item["split"])
    assert len(blocks) == 16
    assert all(len(splits) == 1 for splits in blocks.values())
    assert Counter(item["split"] for item in first) == {"train": 60, "val": 10, "test": 10}
    other = load_datalist(prepare_mednist(mednist, seed=1)).items
    assert {item["scan_id"]: item["split"] for item in other} != {item["scan_id"]: item["split"] for item in first}


@pytest.mark.parametrize("prepare", [prepare_hippocampus, prepare_mednist])
def test_nothing_is_downloaded_unasked(tmp_path, prepare):
    with pytest.raises(ScanError, match=r"Cannot find dataset directory.*Add --download"):
        prepare(tmp_path / "new")


def test_a_file_without_number(mednist, make):
    make.png(mednist / "MedNIST" / "Hand" / "scan.jpeg")
    with pytest.raises(ScanError, match=r"scan\.jpeg: its name has no number"):
        prepare_mednist(mednist)


def test_the_command(mednist):
    assert main(["mednist", "--root", str(mednist), "--seed", "3"]) == mednist / "MedNIST"


def test_the_command_explains_itself(repository):
    done = subprocess.run(
        [sys.executable, "-m", "datasets.public", "--help"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert "--download" in done.stdout
    assert "hippocampus" in done.stdout
