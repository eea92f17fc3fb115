# SPDX-License-Identifier: Apache-2.0
"""detect.yaml from scans to metrics.json, and its models on other scans."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

SIZE = 32
QUICK = {
    "backbone": "resnet18_narrow",
    "image_size": [SIZE, SIZE],
    "detector_options": "{levels: [0], pyramid_channels: 8}",
    "num_anchors": 1,
    "max_epochs": 2,
    "warmup_epochs": 0,
    "batch_size": 4,
    "checkpoint_interval": 1,
    "resamples": 10,
}


def picture(generator: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Noise ``[y, x]`` with a bright box, and the box."""
    values = generator.normal(60, 10, (SIZE, SIZE))
    width, height = (int(side) for side in generator.integers(8, 12, 2))
    x, y = (int(place) for place in generator.integers(4, 16, 2))
    values[y : y + height, x : x + width] += 120
    return values.clip(0, 255).astype(np.uint8), [x, y, width, height]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with a box each, one without any."""
    root, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "label", "group", "box_xywh"])
        for index in range(16):
            values, box = picture(generator)
            Image.fromarray(values).save(root / f"s{index}.png")
            split = "train" if index < 8 else "val" if index < 12 else "test"
            writer.writerow([f"s{index}.png", split, "spot", f"p{index}", " ".join(map(str, box))])
    images = {"images": [{"id": 1, "file_name": "s3.png"}], "annotations": []}
    (root / "coco_train.json").write_text(json.dumps(images))  # nothing is on s3.png
    return root


@pytest.fixture
def detect(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the config; return the folder of results."""
    monkeypatch.chdir(configs.parents[1])

    def run(output: str = "out", run_id: str = "run", **overrides: object) -> Path:
        workflow = ConfigWorkflow(
            str(configs / "detect.yaml"),
            logging_file=False,
            workflow_type=None,
            run_id=run_id,
            output_dir=str(tmp_path / output),
            device=torch.device("cpu"),
            **{**QUICK, **overrides},
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return tmp_path / output

    return run


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_train_evaluate_predict(detect, configs: Path, scans: Path, tmp_path: Path) -> None:
    out = detect(dataset_dir=str(scans))
    metrics = read(out / "metrics.json")
    assert metrics["task"] == "detection"
    assert metrics["objects"] == "boxes"
    assert metrics["classes"] == ["spot"]
    assert metrics["num_scans"] == {"train": 8, "val": 4, "test": 4}
    assert metrics["fit"]["epochs"] == 2
    assert metrics["test"]["num_objects"] == 4
    assert metrics["anchors"]["recall"] == 1.0
    assert 0 <= metrics["decisions"]["score_thresholds"]["spot"] <= 1
    for name in ("cases.png", "model.pt", "history.csv", "predictions/test/coco_results.json"):
        assert (out / name).is_file(), name
    settings = {**read(out / "model.json")["settings"], "model": str(out / "model.pt")}

    again = read(detect("again", "evaluate", **settings) / "metrics.json")
    assert again["test"] == metrics["test"]
    assert again["decisions"] == metrics["decisions"]
    of_val = read(detect("of_val", "evaluate", **{**settings, "split": "val"}) / "metrics.json")
    assert of_val["val"] == metrics["val"]

    new = tmp_path / "new"
    new.mkdir()
    for index in range(12, 16):
        (new / f"s{index}.png").write_bytes((scans / f"s{index}.png").read_bytes())
    found = detect("found", "predict", **{**settings, "dataset_dir": str(new)})
    assert read(found / "boxes.json") == read(out / "predictions/test/boxes.json")
    assert read(found / "coco_images.json")["annotations"] == []


def test_a_resumed_run_equals_an_uninterrupted_one(detect, scans: Path) -> None:
    whole = read(detect("whole", dataset_dir=str(scans), max_epochs=3) / "metrics.json")
    out = detect("parts", dataset_dir=str(scans), max_epochs=3)
    (out / "checkpoints" / "checkpoint_epoch=3.pt").unlink()
    (out / "model.pt").unlink()
    parts = read(detect("parts", dataset_dir=str(scans), max_epochs=3, resume="true") / "metrics.json")
    for name in ("fit", "decisions", "val", "test"):
        assert parts[name] == whole[name]


def volumes(root: Path) -> Path:
    """Volumes of different sizes with a lesion of the codes 2 and 3."""
    generator = np.random.default_rng(0)
    for index in range(8):
        split = ("train", "train", "val", "test")[index % 4]
        shape = (20 + 8 * (index % 2), 20, 24)
        values, codes = generator.normal(50, 5, shape), np.zeros(shape, dtype=np.int16)
        corner = generator.integers(3, 9, 3)
        place = tuple(slice(start, start + 8) for start in corner)
        codes[place], values[place] = 2, values[place] + 100
        codes[tuple(slice(start + 2, start + 4) for start in corner)] = 3
        for name, content in (("images", values.astype(np.int16)), ("masks", codes)):
            (root / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(content, np.diag([-1.0, 1, 2, 1])), root / name / f"{split}_{index}.nii.gz")
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "mask"])
        for file in sorted((root / "images").iterdir()):
            writer.writerow([f"images/{file.name}", file.name.split("_")[0], f"masks/{file.name}"])
    return root


@pytest.mark.parametrize("patch_size", [None, [16, 16, 16]])
def test_label_maps_of_volumes(detect, tmp_path: Path, patch_size: list[int] | None) -> None:
    quick = {
        "dataset_dir": str(volumes(tmp_path / "volumes")),
        "object_codes": "{lesion: [2, 3]}",
        "backbone": "resnet10_narrow",
        "detector_options": "{levels: [1], pyramid_channels: 8, score_threshold: 0.001}",
        "image_size": [16, 16, 16],
        "patch_size": patch_size,
        "crop_to_body": "false",
        "max_epochs": 1,
    }
    out = detect(**quick)
    metrics = read(out / "metrics.json")
    assert metrics["objects"] == "components"
    assert metrics["classes"] == ["lesion"]
    assert metrics["test"]["num_objects"] == metrics["test"]["num_scans"] == 2
    scan = read(out / "predictions/test/boxes.json")["scans"][0]
    assert scan["size"] in ([20, 20, 24], [28, 20, 24])
    box = scan["boxes"][0]
    assert len(box["box"]) == 6
    assert np.array(box["corners_mm"]).shape == (8, 3)
    low, high = np.split(np.array(box["box"]), 2)
    centre = np.array([-1.0, 1, 2]) * ((low + high) / 2 - 0.5)
    assert box["center_mm"] == pytest.approx(centre.tolist())


def test_errors_come_before_any_work(detect, scans: Path, tmp_path: Path, raises_cause) -> None:
    for overrides, message in (
        ({"objects": "circles"}, "--objects"),
        ({"objects": "codes"}, "nothing tells what to detect"),
        ({"key_score": "dice"}, "--key_score"),
        ({"image_size": [16, 16, 16]}, "3 numbers for 2D"),
    ):
        with raises_cause(message):
            detect(dataset_dir=str(scans), **overrides)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_masks(detect) -> None:
    """The other detector, in the same config, on the shipped phantoms (96 pictures with outlines)."""
    out = detect(
        dataset_dir="phantom:brain_mri_2d",
        detector="mask_rcnn",
        detector_options="{pyramid_channels: 8, box_width: 16, mask_widths: [8]}",
        train_scans=8,
        max_epochs=1,
    )
    metrics = read(out / "metrics.json")
    assert metrics["task"] == "instances"
    assert metrics["num_scans"]["train"] == 8
    assert set(metrics["test"]) >= {"boxes", "masks"}
