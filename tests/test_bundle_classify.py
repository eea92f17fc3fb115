# SPDX-License-Identifier: Apache-2.0
"""classify.yaml from scans to metrics.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose
from PIL import Image
from safetensors.torch import load_file

from custom.components import load_component
from custom.networks import file_hash, save_encoder

SIZE = 32


def draw(label: str, generator: np.random.Generator) -> np.ndarray:
    """A noisy grey disc, with a bright spot where the label says so."""
    x, y = np.mgrid[:SIZE, :SIZE]
    picture = 60.0 * ((x - 16) ** 2 + (y - 16) ** 2 < 180) + generator.normal(30, 6, (SIZE, SIZE))
    if label == "spot":
        column, row = generator.integers(9, 20, size=2)
        picture[column : column + 6, row : row + 6] += 90
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small manifest folder; the column ``other`` holds a second labelling."""
    root, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split", "group", "other"])
        for index in range(40):
            label, split = ("plain", "spot")[index % 2], "train" if index < 20 else "val" if index < 30 else "test"
            Image.fromarray(draw(label, generator)).save(root / f"s{index}.png")
            writer.writerow([f"s{index}.png", label, split, f"p{index // 2}", "abc"[index % 3]])
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as pretrain.yaml writes them (here: fresh ones)."""
    torch.manual_seed(0)
    folder = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "encoders"
    spec = load_component(folder, "resnet18_narrow", spatial_dims=2, in_channels=1)
    path = tmp_path_factory.mktemp("pretrained") / "encoder.safetensors"
    return save_encoder(path, spec.build(), spec, {"image_size": [SIZE, SIZE], "masking": "region", "seed": 7})


@pytest.fixture
def classify(configs: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the config; return the content of metrics.json."""
    monkeypatch.chdir(configs.parents[1])

    def run(output: str = "out", **overrides: object) -> dict:
        quick = {"backbone": "resnet18_narrow", "image_size": [SIZE, SIZE], "max_epochs": 2, "resamples": 20}
        workflow = ConfigWorkflow(
            str(configs / "classify.yaml"),
            logging_file=False,
            workflow_type="train",
            output_dir=str(tmp_path / output),
            device=torch.device("cpu"),
            **{"dataset_dir": str(scans), **quick, **overrides},
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        workflow.run()
        workflow.finalize()
        return json.loads((tmp_path / output / "metrics.json").read_text())

    return run


def without_names(metrics: dict) -> dict:
    return {key: metrics[key] for key in ("fit", "val", "test")}


def test_fine_tuning_a_pretrained_encoder(classify, encoder: Path, scans: Path, tmp_path: Path) -> None:
    metrics = classify(encoder=str(encoder))
    assert metrics["task"] == "classification"
    assert metrics["method"] == "fine-tuning"
    assert metrics["dataset"] == str(scans)
    assert metrics["seed"] == 0
    assert metrics["encoder"] == str(encoder)
    assert metrics["encoder_sha256"] == file_hash(encoder)
    assert metrics["pretraining"]["masking"] == "region"
    assert metrics["classes"] == ["plain", "spot"]
    assert metrics["num_scans"] == {"train": 20, "val": 10, "test": 10}
    assert set(metrics["versions"]) == {"torch", "monai", "numpy"}
    assert metrics["fit"]["best_epoch"] in (1, 2)
    assert metrics["fit"]["best_val_score"] == pytest.approx(metrics["val"]["macro_auroc"])
    for split in ("val", "test"):
        report = metrics[split]
        assert np.sum(report["confusion_matrix"]) == report["num_scans"] == 10
        assert report["bootstrap"]["unit"] == "group"
        for name in ("accuracy", "balanced_accuracy", "macro_auroc"):
            assert 0 <= report["intervals"][name][0] <= report["intervals"][name][1] <= 1
    with open(tmp_path / "out" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 20
    test_rows = [row for row in rows if row["split"] == "test"]
    right = np.mean([row["label"] == row["predicted"] for row in test_rows])
    assert right == pytest.approx(metrics["test"]["accuracy"])
    assert all(float(row["p(plain)"]) + float(row["p(spot)"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert (tmp_path / "out" / "confusion_matrix.png").stat().st_size > 1000
    assert (tmp_path / "out" / "model.pt").is_file()


def test_image_size_comes_from_the_encoder(classify, encoder: Path) -> None:
    size = "$@encoder_facts.get('image_size')"
    metrics = classify(encoder=str(encoder), probe="true", image_size=size)
    assert metrics["image_size"] == [SIZE, SIZE]


def settings(configs: Path, name: str, scans: Path, **overrides: object) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / f"{name}.yaml")))
    parser.update({"dataset_dir": str(scans), "image_size": [SIZE, SIZE], **overrides})
    return parser


@pytest.mark.parametrize("crop", ["true", "false"])
def test_scans_look_as_they_do_in_pretraining(configs: Path, tmp_path: Path, monkeypatch, crop: str) -> None:
    monkeypatch.chdir(configs.parents[1])
    picture = np.zeros((80, 100), dtype=np.uint8)
    picture[20:60, 10:50] = np.random.default_rng(0).integers(50, 250, (40, 40))
    Image.fromarray(picture).save(tmp_path / "scan.png")
    images = []
    for name, overrides in (("pretrain", {"masking": "random"}), ("classify", {})):
        parser = settings(configs, name, tmp_path, crop_to_body=crop, **overrides)
        transform = Compose(parser.get_parsed_content("train#deterministic_transforms"))
        images.append(transform({"image": str(tmp_path / "scan.png"), "label": 0, "scan_id": "scan"})["image"])
    assert torch.equal(images[0], images[1])
    # The body takes 40 of 100 pixels; with 2 + 4 of margin on each side of it, 40 of 52.
    assert (images[0][0].amax(1) > 0.1).sum() == pytest.approx(SIZE * 40 / (52 if crop == "true" else 100), abs=2)


def test_whether_to_crop_comes_from_the_encoder(configs: Path, scans: Path, encoder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(configs.parents[1])
    record = json.loads(encoder.with_suffix(".json").read_text())
    (tmp_path / "encoder.safetensors").write_bytes(encoder.read_bytes())
    for facts, expected in (({}, False), ({"crop_to_body": True, "air_threshold": 0.1}, True)):
        (tmp_path / "encoder.json").write_text(json.dumps({**record, **facts}))
        parser = settings(configs, "classify", scans, encoder=str(tmp_path / "encoder.safetensors"))
        assert parser.get_parsed_content("is_cropped") is expected
        assert parser.get_parsed_content("air_threshold") == facts.get("air_threshold", 0.05)
    assert settings(configs, "classify", scans).get_parsed_content("is_cropped") is True


def test_same_seed_same_metrics(classify) -> None:
    first = classify("first", seed=3)
    assert without_names(classify("second", seed=3)) == without_names(first)
    assert first["encoder"] is None
    assert first["encoder_sha256"] is None
    assert first["network"]["network"] == "monai.networks.nets.resnet18"
    assert without_names(classify("third", seed=4)) != without_names(first)


def test_linear_probe_finds_the_spot_and_leaves_the_encoder_alone(classify, encoder: Path, tmp_path: Path) -> None:
    metrics = classify(encoder=str(encoder), probe="true")
    assert metrics["method"] == "linear probe"
    assert metrics["test"]["macro_auroc"] > 0.8
    assert max(metrics["fit"]["val_scores"].values()) == pytest.approx(metrics["val"]["macro_auroc"])
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    for name, value in load_file(encoder).items():
        assert torch.equal(weights[f"encoder.network.{name}"], value), name


def test_another_label_column_and_key_score(classify) -> None:
    metrics = classify(label_column="other", key_score="balanced_accuracy", max_epochs=1)
    assert metrics["classes"] == ["a", "b", "c"]
    assert metrics["fit"]["best_val_score"] == pytest.approx(metrics["val"]["balanced_accuracy"])


def reason(error: BaseException | None) -> str:
    """All messages of a chain of errors: MONAI wraps what a component raises."""
    return "" if error is None else f"{error}\n{reason(error.__cause__)}"


def test_volumes(classify, tmp_path: Path) -> None:
    root, generator = tmp_path / "volumes", np.random.default_rng(0)
    for index in range(12):
        folder = root / ("train", "val", "test")[index // 4] / ("plain", "spot")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        volume = generator.normal(50, 5, (16, 16, 12)) + 40 * (index % 2) * (np.arange(16)[:, None, None] < 6)
        nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4)), folder / f"v{index}.nii.gz")
    metrics = classify(dataset_dir=str(root), image_size=[16, 16, 16], backbone="resnet18_narrow", max_epochs=1)
    assert metrics["network"]["spatial_dims"] == 3
    assert metrics["num_scans"] == {"train": 4, "val": 4, "test": 4}
    assert metrics["test"]["bootstrap"]["unit"] == "scan"


def test_errors_come_before_any_work(classify, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases: list[tuple[str, dict, str]] = [
        ("out", {"label_column": "nowhere"}, "label_column"),
        ("out", {"encoder": str(encoder), "image_size": [SIZE] * 3}, "3 numbers for 2D scans"),
        ("out", {"encoder": str(tmp_path / "nothing.safetensors")}, "One is missing"),
        ("file/below", {}, "--output_dir"),
        ("out", {"probe": "maybe"}, "--probe must be true or false"),
    ]
    for output, overrides, message in cases:
        with pytest.raises((RuntimeError, ValueError)) as caught:
            classify(output, **overrides)
        assert message in reason(caught.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_run_without_validation_says_so(classify) -> None:
    with pytest.raises(RuntimeError) as caught:
        classify(val_interval=5, max_epochs=1)
    assert "--val_interval" in reason(caught.value)
