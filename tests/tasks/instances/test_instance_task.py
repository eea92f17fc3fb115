# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation as a task: back on the file's grid, figures, files and pictures, with a detector that knows."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.transforms import Compose, RandFlipd, Resized
from PIL import Image

from custom.tasks.detection import GridBoxesd, ScanObjectsd
from custom.tasks.instances import GridMasksd, InstanceTask, ScanMasksd
from datasets import LoadScand

COCO = pytest.importorskip("pycocotools.coco").COCO

SIZE = (30, 20)
TRUE = {"a.png": [[4, 3, 8, 6], [18, 8, 9, 10]], "b.png": [], "c.nii.gz": [[2, 2, 10, 6]]}
CLASSES = ["nodule", "cyst"]


class _Knowing(torch.nn.Module):
    """Answers with the truth on the grid of its input, and a worse guess of each object."""

    def __init__(self, items):
        super().__init__()
        self.items = iter(items)

    def forward(self, images):
        found = []
        for image, item in zip(images, self.items, strict=False):
            masks, count = item["masks"].float(), len(item["labels"])
            worse = torch.roll(masks, 5, dims=1) * 0.9
            found.append(
                {
                    "boxes": item["boxes"].repeat(2, 1),
                    "labels": item["labels"].repeat(2),
                    "scores": torch.linspace(0.9, 0.2, 2 * count),
                    "masks": torch.cat([masks, worse]),
                }
            )
            assert image.shape[1:] == masks.shape[1:]
        return found


@pytest.fixture
def items(tmp_path):
    """Two pictures and a mirrored slice with a place in space, shown to the network enlarged and flipped."""
    chain = Compose([
        LoadScand(), ScanMasksd("image", classes=CLASSES), ScanObjectsd("image", classes=CLASSES),
        Resized("image", (60, 40), mode="bilinear"), RandFlipd("image", prob=1, spatial_axis=1),
        GridBoxesd("image"), GridMasksd("image"),
    ])  # fmt: skip
    items = []
    for name, boxes in TRUE.items():
        values = np.zeros(SIZE, np.uint8)
        for x, y, width, height in boxes:
            values[x : x + width, y : y + height] = 200
        if name.endswith("png"):
            Image.fromarray(np.ascontiguousarray(values.T)).save(tmp_path / name)
        else:
            nib.save(nib.Nifti1Image(values[:, :, None], np.diag([2.0, -1, 3, 1])), tmp_path / name)
        outlines = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for x, y, w, h in boxes]
        labels = [CLASSES[index % 2] for index in range(len(boxes))]
        data = {"image": str(tmp_path / name), "boxes": boxes, "box_labels": labels, "outlines": outlines}
        items.append(chain({**data, "scan_id": name}))
    return items


@pytest.fixture
def task():
    return InstanceTask(CLASSES, resamples=20)


@pytest.fixture
def cases(items, task):
    return task.predict(_Knowing(items), [items[:2], items[2:]], "test")


def test_predictions_come_back_to_the_file(cases):
    assert [case.scan_id for case in cases] == list(TRUE)
    for case, boxes in zip(cases, TRUE.values(), strict=True):
        assert case.size == list(SIZE)
        edges = [[x, y, x + width, y + height] for x, y, width, height in boxes]
        np.testing.assert_allclose(case.boxes[: len(boxes)], np.reshape(edges, (-1, 4)), atol=1e-4)
        assert list(case.masks[: len(boxes)]) == list(case.true_masks), "voxel by voxel"


def test_figures_thresholds_and_scores(cases, task):
    decisions = task.calibrate(cases)
    assert set(decisions["score_thresholds"]) == set(CLASSES)
    report = task.report(cases, decisions)
    json.dumps(report, allow_nan=False)
    assert (report["num_scans"], report["num_objects"]) == (3, 3)
    assert report["masks"]["ap"] == pytest.approx(1.0)
    assert report["boxes"]["ap50"] == pytest.approx(1.0)
    assert report["masks"]["intervals"]["ap50"] is not None
    assert report["masks"]["at_threshold"]["recall"] == 1.0
    assert report["masks"]["at_threshold"]["precision"] == 1.0, "the worse guesses have lower scores"
    assert task.scores(cases, decisions) == pytest.approx({"a.png": 1.0, "c.nii.gz": 1.0})
    assert "masks AP50 1.000" in task.summary(report)


def test_masks_decide_not_boxes(cases, task):
    """The worse guesses have perfect boxes: only masks tell them from the truth."""
    worst = task.calibrate(cases)
    worst["score_thresholds"] = dict.fromkeys(CLASSES, 0.0)
    at = task.report(cases, worst)["masks"]["at_threshold"]
    assert (at["true_positives"], at["false_positives"], at["false_negatives"]) == (3, 3, 0)
    assert task.scores(cases, worst)["a.png"] < 0.8


def test_coco_files_are_read_by_pycocotools(cases, task, tmp_path):
    decisions = task.calibrate(cases)
    files = task.save(cases, decisions, tmp_path / "out")
    assert all(file.is_file() for file in files)
    truth = COCO(str(tmp_path / "out" / "coco_images.json"))
    found = truth.loadRes(str(tmp_path / "out" / "coco_results.json"))
    (picture,) = [image["id"] for image in truth.dataset["images"] if image["file_name"] == "a.png"]
    masks = [truth.annToMask(entry) for entry in truth.imgToAnns[picture]]
    assert masks[0].shape == (20, 30)
    assert masks[0][3:9, 4:12].all(), "rows are y"
    assert masks[0].sum() == truth.imgToAnns[picture][0]["area"] == 48
    best = found.imgToAnns[picture][0]
    assert np.array_equal(found.annToMask(best), masks[0])
    assert best["bbox"] == pytest.approx([4, 3, 8, 6], abs=1e-3)
    assert 0 < best["score"] <= 1


def test_label_maps_of_instances(cases, task, tmp_path):
    task.save(cases, task.calibrate(cases), tmp_path)
    picture = np.asarray(Image.open(tmp_path / "instances" / "a.png"))
    expected = np.zeros((20, 30), np.uint8)
    expected[3:9, 4:12], expected[8:18, 18:27] = 1, 2
    assert np.array_equal(picture, expected)
    assert not np.asarray(Image.open(tmp_path / "instances" / "b.png")).any()
    volume = nib.load(tmp_path / "instances" / "c.nii.gz")
    np.testing.assert_array_equal(volume.affine, np.diag([2.0, -1, 3, 1]))
    values = np.asarray(volume.dataobj)
    assert values.shape == (30, 20, 1)
    assert np.array_equal(np.argwhere(values)[[0, -1]], [[2, 2, 0], [11, 7, 0]])
    with open(tmp_path / "instances.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["scan_id"], row["instance"], row["class"], row["voxels"]) for row in rows] == [
        ("a.png", "1", "nodule", "48"), ("a.png", "2", "cyst", "90"), ("c.nii.gz", "1", "nodule", "60"),
    ]  # fmt: skip


def test_scans_without_labels_are_saved_and_drawn(items, task, tmp_path):
    network, decisions = _Knowing(items), {"score_thresholds": dict.fromkeys(CLASSES, 0.0)}
    unknown = [
        {key: item[key] for key in item if key not in ("scan_boxes", "scan_labels", "scan_masks")} for item in items
    ]
    cases = task.predict(network, [unknown], "new")
    assert cases[0].true_masks is None
    task.save(cases, decisions, tmp_path)
    assert json.loads((tmp_path / "coco_images.json").read_text())["annotations"] == []
    axes = Figure().subplots()
    task.draw(cases[0], decisions, axes)
    assert len(axes.texts) == 4


def test_drawing_shows_truth_and_prediction(cases, task):
    decisions = task.calibrate(cases)
    for case in cases:
        axes = Figure().subplots()
        task.draw(case, decisions, axes)
        assert len(axes.collections) == 2 * len(TRUE[case.scan_id])


def test_names_with_dots_keep_their_last_part(cases, task, tmp_path):
    """DICOM files are often called by a UID, without an ending."""
    named = [replace(case, scan_id=f"1.2.840.{number}") for number, case in enumerate(cases, start=113)]
    task.save(named, task.calibrate(cases), tmp_path)
    found = {path.name.removesuffix(".png").removesuffix(".nii.gz") for path in (tmp_path / "instances").iterdir()}
    assert found == {case.scan_id for case in named}
