# SPDX-License-Identifier: Apache-2.0
"""detect.yaml with Mask R-CNN: from pictures with outlines to metrics, files and pictures, and to other scans."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from custom.workflows import TrainedModel

COCO = pytest.importorskip("pycocotools.coco").COCO
pytest.importorskip("torchvision")

WIDTH, HEIGHT = 48, 40
COUNTS = {"train": 24, "val": 4, "test": 5}


def _draw(generator: np.random.Generator, count: int) -> tuple[np.ndarray, list[dict]]:
    """A noisy disc with bright rectangles, ``[x, y]``, and their annotations."""
    x, y = np.mgrid[:WIDTH, :HEIGHT]
    picture = 60.0 * ((x - 24) ** 2 + (y - 20) ** 2 < 340) + generator.normal(20, 4, (WIDTH, HEIGHT))
    annotations = []
    for index in range(count):
        left, top = generator.integers(12 + 12 * index, 14 + 12 * index), generator.integers(10, 20)
        width, height = generator.integers(6, 10, 2)
        picture[left : left + width, top : top + height] += 120
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        box = [left, top, width, height]
        annotations.append({"bbox": [int(v) for v in box], "segmentation": [[int(v) for v in corners]]})
    return picture.clip(0, 255).astype(np.uint8), annotations


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with COCO files; the last scan of every split shows nothing."""
    root, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    rows = ["file,label,split"]
    for split, total in COUNTS.items():
        images, annotations = [], []
        for index in range(total):
            name = f"{split}{index}.png"
            picture, found = _draw(generator, 0 if index == total - 1 else 1 + index % 2)
            Image.fromarray(np.ascontiguousarray(picture.T)).save(root / name)
            rows.append(f"{name},,{split}")
            images.append({"id": index, "file_name": name, "width": WIDTH, "height": HEIGHT})
            annotations += [{"image_id": index, "category_id": 7, **each} for each in found]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "nodule"}]}
        (root / f"coco_{split}.json").write_text(json.dumps(content))
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(scans: Path, configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a short training."""
    output = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(configs.parents[1])
        workflow = ConfigWorkflow(
            str(configs / "detect.yaml"),
            logging_file=False,
            workflow_type="train",
            dataset_dir=str(scans),
            output_dir=str(output),
            detector="mask_rcnn",
            detector_options={"pyramid_channels": 16, "mask_widths": [16], "box_width": 32, "proposals": 16},
            image_size=[32, 32],
            batch_size=5,
            max_epochs=32,
            val_interval=8,
            learning_rate=0.003,
            resamples=10,
            device=torch.device("cpu"),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return output


def test_metrics(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert (metrics["task"], metrics["classes"], metrics["objects"]) == ("instances", ["nodule"], "boxes")
    assert metrics["num_scans"] == COUNTS
    for split in ("val", "test"):
        report = metrics[split]
        assert report["num_scans"] == COUNTS[split]
        for kind in ("boxes", "masks"):
            assert 0 <= report[kind]["ap75"] <= report[kind]["ap50"] <= 1
    assert metrics["test"]["num_objects"] == 6
    assert metrics["test"]["masks"]["ap50"] > 0.3, "bright rectangles are easy"
    assert 0 < metrics["decisions"]["score_thresholds"]["nodule"] < 1
    assert (trained / "cases.png").stat().st_size > 5000


def test_predictions_are_on_the_files_own_grid(trained: Path) -> None:
    folder = trained / "predictions" / "test"
    truth = COCO(str(folder / "coco_images.json"))
    found = truth.loadRes(str(folder / "coco_results.json"))
    assert len(truth.dataset["images"]) == COUNTS["test"]
    assert {found.annToMask(entry).shape for entry in found.dataset["annotations"]} == {(HEIGHT, WIDTH)}
    with open(folder / "instances.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for index in range(COUNTS["test"]):
        numbers = np.asarray(Image.open(folder / "instances" / f"test{index}.png"))
        assert numbers.shape == (HEIGHT, WIDTH)
        own = [row for row in rows if row["scan_id"] == f"test{index}.png"]
        assert [int((numbers == int(row["instance"])).sum()) for row in own] == [int(row["voxels"]) for row in own]


def test_a_trained_model_on_other_scans(
    trained: Path, scans: Path, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured again it has the same figures; scans of which nothing is known get the same predictions."""
    monkeypatch.chdir(configs.parents[1])
    shared = {"model": trained / "model.pt", "configs": configs}
    TrainedModel(**shared, changes={"output_dir": str(tmp_path / "again"), "device": "cpu"}).run("evaluate")
    first = json.loads((trained / "metrics.json").read_text())["test"]
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["test"]
    assert again["masks"]["ap"] == pytest.approx(first["masks"]["ap"])
    assert again["boxes"]["ap"] == pytest.approx(first["boxes"]["ap"])
    for name in ("test0.png", "test1.png"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / name).write_bytes((scans / name).read_bytes())
    changes = {"dataset_dir": str(tmp_path / "new"), "output_dir": str(tmp_path / "predicted"), "device": "cpu"}
    TrainedModel(**shared, changes=changes).run("predict")
    for name in ("test0.png", "test1.png"):
        before = np.asarray(Image.open(trained / "predictions" / "test" / "instances" / name))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "predicted" / "instances" / name)), before)
