# SPDX-License-Identifier: Apache-2.0
"""classify.yaml from scans to metrics.json."""

from __future__ import annotations

import csv
import json
import logging
import shutil
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
from custom.workflows import TrainedModel

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
    rows, val_rows = (table(tmp_path / "out" / "predictions" / split / "predictions.csv") for split in ("test", "val"))
    assert len(rows) == len(val_rows) == 10
    right = np.mean([row["label"] == row["predicted"] for row in rows])
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


def test_volumes_of_a_series_that_are_resampled(classify, configs: Path, tmp_path: Path) -> None:
    root, generator = tmp_path / "volumes", np.random.default_rng(0)
    for index in range(18):
        folder = root / ("train", "val", "test")[index // 6] / ("plain", "spot")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        volume = generator.normal(50, 5, (16, 16, 6, 2))
        volume[..., 1] += 40 * (index % 2) * (np.arange(16)[:, None, None] < 6)  # only the second volume tells
        nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([1, 1, 2, 1])), folder / f"v{index}.nii.gz")
    quick = {"image_size": [16, 16, 16], "backbone": "resnet10_narrow", "frame": 1, "spacing": [1, 1, 1]}
    metrics = classify(dataset_dir=str(root), probe="true", **quick)
    assert metrics["network"]["spatial_dims"] == 3
    assert metrics["num_scans"] == {"train": 6, "val": 6, "test": 6}
    assert metrics["test"]["bootstrap"]["unit"] == "scan"
    assert metrics["test"]["macro_auroc"] > 0.8  # five of six pairs or more; a coin would have three
    again = apply(configs, tmp_path / "out", "evaluate", tmp_path / "again")
    assert again["test"] == metrics["test"]
    picture = np.asarray(Image.open(tmp_path / "out" / "cases.png"))
    assert picture.std() > 10


def test_volume_phantoms(classify) -> None:
    size = {"image_size": [24, 24, 24], "backbone": "resnet10_narrow", "max_epochs": 1, "batch_size": 4}
    metrics = classify(dataset_dir="phantom:brain_mri_3d", train_scans=9, **size)
    assert metrics["network"]["spatial_dims"] == 3
    assert metrics["num_scans"]["train"] == 9
    assert metrics["test"]["num_scans"] == metrics["num_scans"]["test"] > 0
    assert 0 <= metrics["test"]["macro_auroc"] <= 1


def apply(configs: Path, trained: Path, run_id: str, output: Path, **changes: object) -> dict:
    """Run a part of the config with a trained model, as evaluate.yaml and inference.yaml do."""
    settings = {"output_dir": str(output), "device": torch.device("cpu"), **changes}
    TrainedModel(trained / "model.pt", configs, settings).run(run_id)
    return json.loads((output / "metrics.json").read_text()) if run_id == "evaluate" else {}


def table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_trained_model_measures_again_and_predicts(
    classify, configs: Path, encoder: Path, scans: Path, tmp_path: Path
):
    metrics = classify(encoder=str(encoder), max_epochs=1, frozen_stages=2)
    trained = tmp_path / "out"
    encoder_needed = json.loads((trained / "model.json").read_text())["settings"]
    assert "encoder" not in encoder_needed  # model.pt holds its weights
    again = apply(configs, trained, "evaluate", tmp_path / "again")
    assert again["test"] == metrics["test"]
    assert again["decisions"] == metrics["decisions"]
    assert again["model_sha256"] == file_hash(trained / "model.pt")
    assert apply(configs, trained, "evaluate", tmp_path / "val", split="val")["val"] == metrics["val"]
    assert table(tmp_path / "again" / "predictions" / "test" / "predictions.csv") == table(
        trained / "predictions" / "test" / "predictions.csv"
    )
    new = tmp_path / "new"
    new.mkdir()
    for index in (30, 31):  # a plain folder: no manifest, no labels
        shutil.copy(scans / f"s{index}.png", new)
    apply(configs, trained, "predict", tmp_path / "predicted", dataset_dir=str(new))
    rows = table(tmp_path / "predicted" / "predictions.csv")
    known = {row["scan_id"]: row for row in table(trained / "predictions" / "test" / "predictions.csv")}
    assert [row["scan_id"] for row in rows] == ["s30.png", "s31.png"]
    for row in rows:
        assert row["label"] == ""
        assert row["predicted"] == known[row["scan_id"]]["predicted"]
        assert row["above_threshold"] == known[row["scan_id"]]["above_threshold"]
        assert float(row["p(spot)"]) == pytest.approx(float(known[row["scan_id"]]["p(spot)"]), abs=1e-5)
    with pytest.raises(RuntimeError) as caught:
        apply(configs, trained, "evaluate", tmp_path / "new_again", dataset_dir=str(new))
    assert "no labelled scan in the split 'test'" in reason(caught.value)


def test_thresholds_come_from_val_and_are_reported_beside_the_most_probable_class(classify) -> None:
    metrics = classify(threshold_rule="f1", max_epochs=1)
    decisions = metrics["decisions"]
    assert decisions["threshold_rule"] == "f1"
    for split in ("val", "test"):
        assert metrics[split]["thresholded"]["thresholds"] == decisions["thresholds"]
        assert metrics[split]["argmax"]["macro_sensitivity"] == pytest.approx(metrics[split]["balanced_accuracy"])


def test_a_resumed_run_equals_an_uninterrupted_one(classify, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    quick = {"seed": 5, "dropout": 0.3, "checkpoint_interval": 1, "lr_scheduler#t_total": 8, "resamples": 5}
    whole = classify("whole", max_epochs=4, **quick)
    classify("parts", max_epochs=2, **quick)
    parts = classify("parts", max_epochs=4, resume="true", **quick)
    assert "Resuming after epoch 2 of 4" in caplog.text
    assert parts["fit"]["epochs"] == 4
    assert without_names(parts) == without_names(whole)
    histories = [table(tmp_path / name / "history.csv") for name in ("whole", "parts")]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 4
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_training_stops_early_on_few_scans(classify) -> None:
    metrics = classify(train_scans=10, patience=1, max_epochs=20, learning_rate=0.0, layer_decay=0.5)
    assert metrics["num_scans"]["train"] == 10
    assert metrics["fit"]["epochs"] < 20


def test_frozen_stages_stay_as_they_are(classify, encoder: Path, tmp_path: Path) -> None:
    classify(encoder=str(encoder), max_epochs=1, frozen_stages=2, class_weights="[1, 2]")
    weights, before = torch.load(tmp_path / "out" / "model.pt", weights_only=True), load_file(encoder)
    changed = {
        name.split(".")[0]
        for name, value in before.items()
        if not torch.equal(weights[f"encoder.network.{name}"], value)
    }
    assert changed == {"layer2", "layer3", "layer4"}


def test_losses_reach_tensorboard_at_intervals(classify, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    classify(max_epochs=2, batch_size=4, log_interval=5)  # 5 iterations an epoch
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("iteration_loss")] == [5, 10]
    assert [event.step for event in events.Scalars("macro_auroc")] == [1, 2]


LABELS = ("bright", "square")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans that have any of two labels, in one column of names and in two columns of 0 and 1."""
    root, generator = tmp_path_factory.mktemp("several"), np.random.default_rng(1)
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split", *LABELS])
        for index in range(48):
            has = [index % 2, index // 2 % 2]
            picture = draw("plain", generator).astype(float)
            picture[:, :16] += 60 * has[0]
            picture[10:22, 18:30] += 100 * has[1]
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"s{index}.png")
            names = "|".join(name for name, value in zip(LABELS, has, strict=True) if value) or "none"
            writer.writerow([f"s{index}.png", names, ("train", "train", "val", "test")[index // 4 % 4], *has])
    return root


@pytest.mark.parametrize("form", [{"label_separator": "|"}, {"label_column": list(LABELS)}])
def test_probe_of_several_labels(classify, configs: Path, several: Path, encoder: Path, form: dict, tmp_path: Path):
    options = {"dataset_dir": str(several), "encoder": str(encoder), "class_weights": "balanced", **form}
    metrics = classify(probe="true", **options)
    assert metrics["classes"] == list(LABELS)
    assert metrics["multi_label"] is True
    assert metrics["class_weights"] == [1.0, 1.0]
    assert metrics["num_scans"] == {"train": 24, "val": 12, "test": 12}
    assert metrics["test"]["macro_auroc"] > 0.8
    assert set(metrics["test"]["thresholded"]["f1_per_class"]) == set(LABELS)
    assert "accuracy" not in metrics["test"]
    again = apply(configs, tmp_path / "out", "evaluate", tmp_path / "again")
    assert again["test"] == metrics["test"]
    rows = [
        row for split in ("val", "test") for row in table(tmp_path / "out" / "predictions" / split / "predictions.csv")
    ]
    assert {row["label"] for row in rows} == {"none", "bright", "square", "bright|square"}
    for row in rows:
        above = [name for name in LABELS if float(row[f"p({name})"]) >= metrics["decisions"]["thresholds"][name]]
        assert row["predicted"] == ("|".join(above) or "none")


def test_fine_tuning_with_several_labels(classify, several: Path) -> None:
    options = {"dataset_dir": str(several), "label_separator": "|", "key_score": "macro_average_precision"}
    metrics = classify(max_epochs=9, learning_rate=0.003, class_weights=[1, 2], **options)
    assert metrics["fit"]["best_val_score"] == pytest.approx(metrics["val"]["macro_average_precision"])
    assert metrics["test"]["macro_auroc"] > 0.6  # 0.88 and 0.99 were seen after six epochs


def test_new_scans_of_a_model_with_several_labels(classify, configs: Path, several: Path, tmp_path: Path) -> None:
    classify(dataset_dir=str(several), label_column=list(LABELS), max_epochs=1)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(several / "s3.png", new)
    apply(configs, tmp_path / "out", "predict", tmp_path / "predicted", dataset_dir=str(new))
    (row,) = table(tmp_path / "predicted" / "predictions.csv")
    assert {"p(bright)", "p(square)", "predicted"} <= set(row)


def test_real_scans(classify, configs: Path, data_root: Path, tmp_path: Path) -> None:
    source, root = data_root / "brain_mri_cheng", tmp_path / "few"
    kept, counts = [], dict[tuple[str, str], int]()
    for row in table(source / "manifest.csv"):
        key = (row["split"], row["label"])
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= (16 if row["split"] == "train" else 8):
            (root / row["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / row["file"], root / row["file"])
            kept.append({name: row[name] for name in ("file", "label", "split", "group")})
    with open(root / "manifest.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    metrics = classify(dataset_dir=str(root), image_size=[64, 64], max_epochs=1, class_weights="balanced")
    assert metrics["classes"] == ["glioma", "meningioma", "pituitary"]
    assert metrics["class_weights"] == pytest.approx([1, 1, 1])
    assert metrics["test"]["num_scans"] == 24
    assert metrics["test"]["bootstrap"]["unit"] == "group"
    assert apply(configs, tmp_path / "out", "evaluate", tmp_path / "again")["test"] == metrics["test"]


def test_errors_come_before_any_work(classify, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases: list[tuple[str, dict, str]] = [
        ("out", {"label_column": "nowhere"}, "label_column"),
        ("out", {"encoder": str(encoder), "image_size": [SIZE] * 3}, "3 numbers for 2D scans"),
        ("out", {"encoder": str(tmp_path / "nothing.safetensors")}, "no such file"),
        ("file/below", {}, "--output_dir"),
        ("out", {"probe": "maybe"}, "--probe must be true or false"),
        ("out", {"class_weights": [1, 2, 3]}, "3 numbers for 2 classes"),
        ("out", {"label_column": ["label", "other"]}, "holds 'plain'"),
        ("out", {"label_separator": "|", "key_score": "accuracy"}, "several labels per scan"),
        ("out", {"threshold_rule": "best"}, "known: youden, f1"),
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
