# SPDX-License-Identifier: Apache-2.0
"""Predictions on the grid of the file, decisions, figures, files, pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.transforms import Compose, Flipd, Resized
from PIL import Image

from custom.tasks.detection import BoxCase, DetectionTask, GridBoxesd, ScanObjectsd
from datasets import LoadScand

CLASSES = ["a", "b"]
OBLIQUE = np.array([[1.9, 0.4, 0.3, -20], [-0.5, 0.7, 0.9, 14], [-0.2, -0.6, 2.8, 5], [0, 0, 0, 1]])
DECISIONS = {"score_thresholds": {"a": 0.4, "b": 0.5}}


def case(name: str, found: list, truth: list | None, **options) -> BoxCase:
    """``found``: (box, label, score), ``truth``: (box, label)."""
    boxes = np.array([each[0] for each in found], dtype=np.float64).reshape(-1, 4)
    labels = np.array([each[1] for each in found], dtype=np.int64)
    scores = np.array([each[2] for each in found], dtype=np.float64)
    known = {}
    if truth is not None:
        known["true_boxes"] = np.array([each[0] for each in truth], dtype=np.float64).reshape(-1, 4)
        known["true_labels"] = np.array([each[1] for each in truth], dtype=np.int64)
    return BoxCase(name, f"{name}.png", [40, 30], boxes, labels, scores, **known, **options)


@pytest.fixture
def cases() -> list[BoxCase]:
    one, two, far = [0, 0, 10, 10], [20, 10, 30, 20], [30, 25, 40, 30]
    return [
        case("s0", [(one, 0, 0.9), (far, 0, 0.3)], [(one, 0)]),
        case("s1", [(two, 1, 0.6), (one, 1, 0.8)], [(two, 1), (one, 0)]),
        case("s2", [(far, 1, 0.2)], []),
        case("s3", [], []),
    ]


def test_thresholds_figures_and_scores(cases: list[BoxCase]) -> None:
    task = DetectionTask(CLASSES, sizes={"small": [0, 99], "large": [100, 1e10]}, resamples=20)
    decisions = task.calibrate(cases)
    assert decisions == {"score_thresholds": {"a": 0.9, "b": 0.6}}
    report = task.report(cases, decisions)
    assert report["num_scans"] == 4
    assert report["num_objects"] == 3
    # Class a: one of two objects at the best score. Class b: its object behind one false positive.
    assert report["per_class"]["a"]["ap50"] == pytest.approx(51 / 101)
    assert report["per_class"]["b"]["ap50"] == pytest.approx(0.5)
    at = report["at_threshold"]
    assert (at["true_positives"], at["false_positives"], at["false_negatives"]) == (2, 1, 1)
    assert report["ap_small"] is None
    assert report["froc"]["iou"] == 0.1
    assert "AP50" in task.summary(report)
    json.dumps(report, allow_nan=False)
    assert task.scores(cases, decisions) == pytest.approx({"s0": 1.0, "s1": 0.5})  # the others: nothing, rightly


def test_a_class_that_is_never_found_gets_the_usual_threshold(cases: list[BoxCase]) -> None:
    assert DetectionTask([*CLASSES, "c"]).calibrate(cases)["score_thresholds"]["c"] == 0.5


def test_scans_without_truth_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="s9: nothing tells"):
        DetectionTask(CLASSES).report([case("s9", [], None)], DECISIONS)


def test_files_of_pictures(cases: list[BoxCase], tmp_path: Path) -> None:
    """pycocotools reads them and finds the same figures."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    task = DetectionTask(CLASSES, resamples=0)
    files = task.save(cases, DECISIONS, tmp_path)
    assert {path.name for path in files} == {"boxes.json", "boxes.csv", "coco_images.json", "coco_results.json"}
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert results[2] == {"image_id": 2, "category_id": 2, "bbox": [20.0, 10.0, 10.0, 10.0], "score": 0.6}
    truth = COCO(str(tmp_path / "coco_images.json"))
    assert truth.loadImgs(1)[0] == {"id": 1, "file_name": "s0", "width": 40, "height": 30}
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "coco_results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    report = task.report(cases, DECISIONS)
    assert evaluation.stats[:3] == pytest.approx([report["ap"], report["ap50"], report["ap75"]])
    with open(tmp_path / "boxes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5
    assert rows[0]["kept"] == "True"
    assert rows[1]["kept"] == "False"
    assert [float(rows[2][name]) for name in ("x_min", "y_min", "x_max", "y_max")] == [20, 10, 30, 20]
    assert rows[0]["center_x_mm"] == ""  # a picture has no place in space


def test_files_of_nothing(tmp_path: Path) -> None:
    DetectionTask(CLASSES).save([case("s9", [], None)], DECISIONS, tmp_path)
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []
    assert json.loads((tmp_path / "boxes.json").read_text())["scans"][0]["boxes"] == []


class Told(torch.nn.Module):
    """A detector that finds what it is told, on the grid of its image."""

    def __init__(self, boxes: torch.Tensor) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        count = len(self.boxes)
        one = {"boxes": self.boxes, "labels": torch.zeros(count).long(), "scores": torch.full((count,), 0.9)}
        return [one for _ in images]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_boxes_come_back_to_the_file(tmp_path: Path, spatial_dims: int) -> None:
    """A detector that repeats the truth of the network's grid gives the truth of the file, and its place in space."""
    box = [5, 7, 2, 4, 1, 10] if spatial_dims == 3 else [5, 7, 4, 1]
    if spatial_dims == 3:
        path = str(tmp_path / "scan.nii.gz")
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (20, 24, 16)).astype(np.int16), OBLIQUE), path
        )
        shape = (30, 30, 30)
    else:
        path, shape = str(tmp_path / "scan.png"), (31, 64)
        Image.fromarray(np.random.default_rng(0).integers(0, 99, (24, 20)).astype(np.uint8)).save(path)
    transform = Compose([
        LoadScand("image", spatial_dims=spatial_dims),
        ScanObjectsd("image", CLASSES),
        Flipd("image", spatial_axis=0),
        Resized("image", spatial_size=shape, mode="area"),
        GridBoxesd("image"),
    ])  # fmt: skip
    item = transform({"image": path, "scan_id": "s", "boxes": [box], "box_labels": ["a"]})
    task = DetectionTask(CLASSES, resamples=0)
    (found,) = task.predict(Told(item["boxes"]), [[item]], "")
    expected = np.array([*box[:spatial_dims], *np.add(box[:spatial_dims], box[spatial_dims:])], dtype=np.float64)
    assert found.boxes[0] == pytest.approx(expected, abs=1e-4)
    assert found.size == ([20, 24, 16] if spatial_dims == 3 else [20, 24])
    assert task.report([found], task.calibrate([found]))["ap"] == pytest.approx(1.0)
    task.save([found], DECISIONS, tmp_path / "out")
    (written,) = json.loads((tmp_path / "out" / "boxes.json").read_text())["scans"][0]["boxes"]
    assert written["kept"]
    if spatial_dims == 3:
        assert written["center_mm"] == pytest.approx((OBLIQUE @ [6.5, 7, 6.5, 1])[:3].tolist(), abs=1e-3)
        assert not (tmp_path / "out" / "coco_results.json").exists()
    else:
        assert "center_mm" not in written
    axes = Figure().subplots()
    task.draw(found, DECISIONS, axes)
    true, drawn = (patch.get_bbox() for patch in axes.patches)
    assert true.extents == pytest.approx(drawn.extents, abs=1e-3)
    if spatial_dims == 2:
        assert true.extents.tolist() == [5, 7, 9, 8]
