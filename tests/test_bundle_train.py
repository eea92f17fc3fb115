# SPDX-License-Identifier: Apache-2.0
"""train.yaml from scans with label maps to metrics.json, and its model on other scans."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from custom.components import load_component
from custom.networks import save_encoder
from datasets.phantoms import ensure_phantoms

SIZE = 32


def phantoms(root: Path, dims: int, counts: dict[str, int], size: int) -> Path:
    return ensure_phantoms("brain_mri", dims, root=root, size=size, counts=counts)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantoms(tmp_path_factory.mktemp("scans"), 2, {"train": 6, "val": 3, "test": 4}, SIZE)


@pytest.fixture
def bundle(configs: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run a config; return metrics.json where there is one."""
    monkeypatch.chdir(configs.parents[1])

    def run(output: str = "out", name: str = "train", **overrides: object) -> dict:
        quick = {"dataset_dir": str(scans), "classes": {4: "lesion", 5: "lesion"}, "backbone": "resnet18_narrow"}
        quick |= {"image_size": [SIZE, SIZE], "max_epochs": 2, "resamples": 20, "segmenter_options": {"channels": 4}}
        workflow = ConfigWorkflow(
            str(configs / f"{name}.yaml"),
            logging_file=False,
            workflow_type="train" if name == "train" else None,
            output_dir=str(tmp_path / output),
            **{**(quick if name == "train" else {}), "device": torch.device("cpu"), **overrides},
        )
        workflow.initialize()
        if name == "train":
            assert workflow.check_properties() == []
        workflow.run()
        workflow.finalize()
        file = tmp_path / output / "metrics.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    return run


def measured(metrics: dict) -> dict:
    return {key: metrics[key] for key in ("fit", "val", "test")}


def test_a_run_and_its_model_on_other_scans(bundle, scans: Path, tmp_path: Path) -> None:
    metrics = bundle(instances="true", batch_size=3)
    assert metrics["task"] == "segmentation"
    assert metrics["num_scans"] == {"train": 6, "val": 3, "test": 4}
    assert set(metrics["test"]["classes"]) == {"lesion"}
    assert metrics["test"]["distance_unit"] == "pixels"
    assert {"pq", "rq", "sq"} <= set(metrics["test"]["components"])
    folder = tmp_path / "out"
    for split, count in (("val", 3), ("test", 4)):
        maps = [each for each in (folder / "predictions" / split).rglob("*.png") if "_instances" not in each.name]
        assert len(maps) == count
        assert all(np.asarray(Image.open(each)).shape == (SIZE, SIZE) for each in maps)
    with open(folder / "predictions" / "test" / "sizes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["class"], row["code"], row["unit"]) for row in rows} == {("lesion", "4", "pixels")}
    record = json.loads((folder / "model.json").read_text())
    assert record["config"] == "train"
    assert record["settings"]["classes"] == {"4": "lesion", "5": "lesion"}

    again = bundle("again", "evaluate", model=str(folder / "model.pt"))
    assert again["test"] == metrics["test"]
    only_images = tmp_path / "new"
    only_images.mkdir()
    for file in sorted((scans / "images").glob("test_*")):
        shutil.copy(file, only_images / file.name)
    bundle("predicted", "inference", model=str(folder / "model.pt"), dataset_dir=str(only_images))
    for file in only_images.iterdir():
        ours = np.asarray(Image.open(tmp_path / "predicted" / file.name))
        assert np.array_equal(ours, np.asarray(Image.open(folder / "predictions" / "test" / "images" / file.name)))


def test_grey_levels_are_scaled_as_in_training(bundle, tmp_path: Path, raises_cause) -> None:
    window = {"a_min": 20, "a_max": 120, "b_min": 0.0, "b_max": 1.0, "clip": True}
    metrics = bundle(max_epochs=1, intensity={"_target_": "ScaleIntensityRanged", "keys": "image", **window})
    model = str(tmp_path / "out" / "model.pt")
    recorded = json.loads((tmp_path / "out" / "model.json").read_text())["preprocessing"]["intensity"]
    assert recorded == {"scheme": "window", "window": [20.0, 120.0], "b_min": 0.0, "b_max": 1.0, "clip": True}
    assert bundle("again", "evaluate", model=model)["test"] == metrics["test"]
    with raises_cause(r"intensity: recorded window \(window \[20, 120\]\), given percentile"):
        bundle("other", "evaluate", model=model, intensity={"scheme": "percentile"})
    with raises_cause(r"crop_to_body: recorded True, given False"):
        bundle("other", "inference", model=model, options="{crop_to_body: false}")


def test_a_resumed_run_equals_an_uninterrupted_one(bundle, tmp_path: Path) -> None:
    whole = bundle("whole", max_epochs=3, checkpoint_interval=1)
    # The schedule is that of three epochs: what an interruption leaves are its first checkpoints.
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "part" / "checkpoints")
    (tmp_path / "part" / "checkpoints" / "checkpoint_epoch=3.pt").unlink()
    resumed = bundle("part", max_epochs=3, checkpoint_interval=1, resume="true")
    assert measured(resumed) == measured(whole)
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "part")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def same_scans_everywhere(scans: Path, root: Path) -> Path:
    """Four scans as train, val and test: a network that has learnt them by heart knows them all."""
    shutil.copytree(scans, root)
    with open(scans / "manifest.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"][:4]
    names = list(rows[0])
    copies = []
    for row in rows:
        for split in ("train", "val", "test"):
            file = f"images/{split}_{Path(row['file']).name}"
            shutil.copy(root / row["file"], root / file)
            copies.append({**row, "file": file, "split": split, "group": "", "box_xywh": ""})
    for coco in root.glob("coco_*.json"):
        coco.unlink()
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(copies)
    return root


@pytest.mark.parametrize(("dims", "size", "backbone"), [(2, 48, "resnet18_narrow"), (3, 32, "resnet10_narrow")])
def test_four_scans_are_learnt_by_heart(bundle, tmp_path: Path, dims: int, size: int, backbone: str) -> None:
    folder = phantoms(tmp_path / "phantoms", dims, {"train": 4, "val": 1, "test": 1}, size)
    folder = same_scans_everywhere(folder, tmp_path / "same")
    metrics = bundle(
        dataset_dir=str(folder),
        backbone=backbone,
        image_size=[size] * dims,
        crop_to_body="false",
        batch_size=4,
        max_epochs=60 if dims == 2 else 40,
        val_interval=10,
        checkpoint_interval=100,
        learning_rate=0.004,
        segmenter_options={"channels": 8 if dims == 2 else 4},
        classes={4: "lesion", 5: "lesion"} if dims == 2 else dict.fromkeys((2, 3, 4, 5), "brain"),
        **{"train#random_transforms": []},
    )
    assert metrics["test"]["dice"] > 0.75  # 0.91 to 0.96 was seen, of several seeds and processors


def test_patches_windows_and_volumes(bundle, tmp_path: Path) -> None:
    folder = phantoms(tmp_path / "phantoms", 3, {"train": 2, "val": 1, "test": 1}, 32)
    metrics = bundle(
        dataset_dir=str(folder),
        backbone="resnet10_narrow",
        image_size=[16, 16, 16],
        patch_size=[16, 16, 16],
        segmenter="pyramid",
        max_epochs=1,
        spacing=9.0,
    )
    assert metrics["patch_size"] == [16, 16, 16]
    assert metrics["test"]["volume_unit"] == "ml"
    (file,) = (tmp_path / "out" / "predictions" / "test").rglob("*.nii.gz")
    scan = nib.load(next((folder / "images").glob("test_*")))
    assert nib.load(file).shape == scan.shape
    assert np.allclose(nib.load(file).affine, scan.affine)


def test_every_code_is_a_class_by_default_and_an_unknown_one_an_error(bundle, scans: Path, tmp_path: Path) -> None:
    metrics = bundle(classes=None, max_epochs=1, train_scans=4)
    assert set(metrics["classes"]) == {"1", "2", "3", "4", "5", "6"}
    assert metrics["num_scans"]["train"] == 4
    folder = shutil.copytree(scans, tmp_path / "other")
    mask = next((folder / "masks").glob("val_*"))
    codes = np.array(Image.open(mask))
    codes[0, 0] = 77
    Image.fromarray(codes).save(mask)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what counts
        bundle("wrong", dataset_dir=str(folder), classes=None, max_epochs=1)
    assert mask.name in reason(caught.value)
    assert "[77]" in reason(caught.value)


def reason(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{reason(error.__cause__)}"


def test_a_bad_scan_and_one_without_label_map(bundle, scans: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scans, tmp_path / "bad")
    rows = (folder / "manifest.csv").read_text().splitlines()
    broken, unlabelled = (row.split(",")[0] for row in (rows[1], rows[2]))
    (folder / broken).write_bytes((folder / broken).read_bytes()[:60])
    rows[2] = rows[2].replace(rows[2].split(",")[4], "")
    (folder / "manifest.csv").write_text("\n".join(rows))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what counts
        bundle("stops", dataset_dir=str(folder), max_epochs=1)
    assert Path(broken).name in reason(caught.value)
    metrics = bundle(dataset_dir=str(folder), max_epochs=1, skip_bad="true")
    assert unlabelled != broken
    assert metrics["num_scans"]["train"] == 4


def test_a_pretrained_encoder_with_frozen_stages(bundle, configs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = load_component(configs / "encoders", "resnet18_small", spatial_dims=2, in_channels=1)
    path = save_encoder(tmp_path / "encoder.safetensors", spec.build(), spec, {"image_size": [SIZE, SIZE]})
    metrics = bundle(encoder=str(path), frozen_stages=2, layer_decay=0.7, warmup_epochs=0, class_weights=[0.5, 1.0])
    assert metrics["encoder"] == str(path)
    assert metrics["network"]["arguments"]["conv1_t_stride"] == 1
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    torch.manual_seed(0)
    fresh = spec.build().network.state_dict()
    assert torch.equal(weights["encoder.network.conv1.weight"], fresh["conv1.weight"])
    assert not torch.equal(weights["encoder.network.layer4.0.conv1.weight"], fresh["layer4.0.conv1.weight"])
    again = bundle("again", "evaluate", model=str(tmp_path / "out" / "model.pt"))
    assert again["test"] == metrics["test"]


def test_errors_come_before_any_work(bundle, scans: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(scans / "images", pictures)
    cases = [
        ({"dataset_dir": str(pictures)}, "no scan with a label map in the split 'train'"),
        ({"image_size": [SIZE] * 3}, "3 numbers for 2D scans"),
        ({"classes": {"lesion": 4}}, "--classes"),
        ({"train_scans": 100}, "train_scans must be between"),
    ]
    for overrides, message in cases:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what counts
            bundle(**overrides)
        assert message in reason(caught.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_other_lists_of_scans_can_be_given(bundle, scans: Path) -> None:
    """As MONAI Label does: image and label, nothing else."""
    pairs = [
        {"image": str(file), "label": str(scans / "masks" / file.name)}
        for file in sorted((scans / "images").glob("val_*"))
    ]
    metrics = bundle(max_epochs=1, **{"train#dataset#data": pairs, "validate#dataset#data": pairs[:2]})
    assert metrics["num_scans"] == {"train": 3, "val": 2, "test": 4}
