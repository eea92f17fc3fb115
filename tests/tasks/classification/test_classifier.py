# SPDX-License-Identifier: Apache-2.0
"""Classifier, linear probe, setup checks and result files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from custom.files import write_atomically
from custom.networks import EncoderSpec, save_encoder
from custom.options import flag
from custom.tasks import BestModel, build_encoder, encoder_facts
from custom.tasks.classification import (
    Classifier,
    LinearProbe,
    check_classification,
    collect,
    labelled_items,
    scan_groups,
)
from custom.visual.confusion import confusion_figure


class TinyEncoder(nn.Module):
    """Two feature maps, as an encoder of this project returns them."""

    def __init__(self, spatial_dims: int = 2, channels: int = 4) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.first, self.second, self.norm = conv(1, 3, 2, 2), conv(3, channels, 2, 2), norm(channels)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(image)
        return [first, self.norm(self.second(first))]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_logits_are_the_head_on_pooled_features(spatial_dims: int) -> None:
    network = Classifier(TinyEncoder(spatial_dims), num_classes=3, channels=4).eval()
    image = torch.rand(2, 1, *[8] * spatial_dims)
    pooled = network.encoder(image)[-1].mean(dim=tuple(range(2, 2 + spatial_dims)))
    assert torch.allclose(network.features(image), pooled, atol=1e-6)
    assert torch.allclose(network(image), network.head(pooled), atol=1e-6)


def test_a_frozen_encoder_stays_as_it_is() -> None:
    network = Classifier(TinyEncoder(), 2, 4, dropout=0.5, freeze=True).train()
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    assert network.dropout.training
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    assert network.head.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())


def loader(count: int, classes: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.rand(count, 1, 8, 8, generator=generator) + labels.reshape(-1, 1, 1, 1)
    names = [f"s{index}" for index in range(count)]
    return [
        {"image": images[i : i + 5], "label": labels[i : i + 5], "scan_id": names[i : i + 5]}
        for i in range(0, count, 5)
    ]


def test_collect_keeps_order_and_names() -> None:
    found = collect(lambda image: image.mean(dim=(1, 2, 3)), loader(12, 3, 0), "cpu")
    assert found.values.shape == (12,)
    assert found.labels.tolist() == [0, 1, 2] * 4
    assert found.scan_ids == [f"s{i}" for i in range(12)]


@pytest.mark.parametrize("classes", [2, 3])
def test_probe_writes_the_regression_into_the_head(classes: int, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    network = Classifier(TinyEncoder(), classes, 4, freeze=True)
    train, val = loader(40, classes, 1), loader(20, classes, 2)
    fit = LinearProbe(BestModel(tmp_path / "model.pt", network), train, val, strengths=[1.0]).fit()
    assert fit["strength"] == 1.0
    features, other = collect(network.features, train, "cpu"), collect(network.features, val, "cpu")
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    expected = regression.fit(features.values.astype(float), features.labels).predict_proba(other.values)
    logits = collect(network, val, "cpu").values
    assert np.allclose(torch.from_numpy(logits).softmax(1).numpy(), expected, atol=1e-5)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["head.weight"], network.head.weight)


def test_probe_takes_the_strongest_regularisation_among_equals(tmp_path: Path) -> None:
    network = Classifier(TinyEncoder(), 2, 4, freeze=True)
    fit = LinearProbe(BestModel(tmp_path / "model.pt", network), loader(40, 2, 1), loader(20, 2, 2)).fit()
    assert set(fit["val_scores"].values()) == {1.0}
    assert fit["strength"] == 1e-4


def test_probe_needs_a_frozen_encoder(tmp_path: Path) -> None:
    network = Classifier(TinyEncoder(), 2, 4)
    with pytest.raises(ValueError, match="freeze=True"):
        LinearProbe(BestModel(tmp_path / "model.pt", network), loader(8, 2, 1), loader(8, 2, 2)).fit()


def test_encoder_from_file_and_from_scratch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = EncoderSpec(
        "monai.networks.nets.resnet10",
        ["layer1", "layer4"],
        2,
        channel_argument="n_input_channels",
        arguments={"widen_factor": 0.125, "feed_forward": False},
    )
    encoder = spec.build()
    path = save_encoder(tmp_path / "encoder.safetensors", encoder, spec, {"image_size": [32, 32]})
    loaded = build_encoder(path, spec)
    assert torch.equal(loaded.network.conv1.weight, encoder.network.conv1.weight)
    assert encoder_facts(path)["image_size"] == [32, 32]
    assert encoder_facts(None) == {}
    assert not torch.equal(build_encoder(None, spec).network.conv1.weight, encoder.network.conv1.weight)
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, "sha256": "0"}))
    assert encoder_facts(path)["sha256"] == record["sha256"]
    assert "different runs" in caplog.text


def datalist(labels: dict[str, list], classes: list[str], groups: dict[str, list] | None = None) -> SimpleNamespace:
    items = [
        {"image": f"{split}{i}.png", "scan_id": f"{split}{i}", "split": split, "label": label, "mask": "m.png"}
        for split, found in labels.items()
        for i, label in enumerate(found)
    ]
    for split, names in (groups or {}).items():
        for item, name in zip([item for item in items if item["split"] == split], names, strict=True):
            item["group"] = name
    return SimpleNamespace(
        root=Path("scans"),
        items=items,
        classes=classes,
        split=lambda name: [item for item in items if item["split"] == name],
    )


GOOD = {"train": [0, 1], "val": [0, 1], "test": [0, 1]}


def check(data: SimpleNamespace, image_size: tuple = (32, 32), encoder: dict | None = None, **options: str) -> None:
    check_classification(data, 2, 1, image_size, encoder or {}, **options)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ({"train": [None], "val": [None], "test": [None]}, [], "no scan has a label.*--label_column"),
        ({"train": [0], "val": [0], "test": [0]}, ["a"], "one class"),
        ({**GOOD, "test": []}, ["a", "b"], "split 'test'.*manifest.csv"),
        ({**GOOD, "val": [None]}, ["a", "b"], "split 'val'"),
        ({**GOOD, "train": [0, 0]}, ["a", "b"], r"'train' has no scan of \['b'\]"),
        ({**GOOD, "val": [1, 1]}, ["a", "b"], "'val' has one class"),
    ],
)
def test_data_that_cannot_be_learned_or_measured(labels: dict, classes: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(datalist(labels, classes))


@pytest.mark.parametrize(
    ("image_size", "encoder", "message"),
    [
        ((32, 32, 32), {}, r"3 numbers for 2D scans.*--image_size"),
        ((32, 32), {"encoder": {"spatial_dims": 3, "in_channels": 1}}, "takes 3D images.*scans are 2D"),
        ((32, 32), {"encoder": {"spatial_dims": 2, "in_channels": 3}}, "--channels 3"),
    ],
)
def test_encoder_for_other_images(image_size: tuple, encoder: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(datalist(GOOD, ["a", "b"]), image_size, encoder)


def test_good_data_passes_and_another_size_is_only_noted(caplog: pytest.LogCaptureFixture) -> None:
    encoder = {"encoder": {"spatial_dims": 2, "in_channels": 1}, "image_size": [64, 64]}
    check(datalist(GOOD, ["a", "b"]), encoder=encoder)
    assert "pretrained at [64, 64]" in caplog.text
    with pytest.raises(ValueError, match="known: accuracy"):
        check(datalist(GOOD, ["a", "b"]), key_metric="f1")


def test_groups_and_unlabelled_scans(caplog: pytest.LogCaptureFixture) -> None:
    data = datalist({**GOOD, "train": [0, None, 1]}, ["a", "b"])
    assert [item["scan_id"] for item in labelled_items(data, "train")] == ["train0", "train2"]
    assert "mask" not in labelled_items(data, "train")[0]
    assert scan_groups(data) is None
    grouped = datalist(GOOD, ["a", "b"], {"train": ["p", "q"], "val": ["r", "s"], "test": ["t", "p"]})
    assert scan_groups(grouped)["test1"] == "p"
    check(grouped)
    assert "1 groups (patients) occur in more than one split, e.g. p" in caplog.text


def test_a_failed_write_leaves_the_old_file_and_a_clear_message(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def full_disk(target: Path) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"metrics\.json: could not be written.*--output_dir"):
        write_atomically(path, full_disk)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    assert path.read_text() == "old"


def test_best_model_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(2, 2)
    model = BestModel(tmp_path / "model.pt", network)
    model.save()
    kept = network.weight.detach().clone()
    nn.init.zeros_(network.weight)

    def fails(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"model\.pt: could not be written"):
        model.save()
    model.restore()
    assert torch.equal(network.weight, kept)


def test_confusion_figure_draws_every_split(tmp_path: Path) -> None:
    figure = confusion_figure({"val": [[3, 1], [0, 2]], "test": [[0, 0], [1, 1]]}, ["healthy", "tumor"])
    assert [axes.get_title() for axes in figure.axes] == ["val, 6 scans", "test, 2 scans"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "0", "2"]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("False", False), (True, True), (0, False), (None, False), ("no", False)]
)
def test_flags_from_the_command_line(value: object, expected: bool) -> None:
    assert flag(value, "probe") is expected


def test_a_flag_that_is_neither() -> None:
    with pytest.raises(ValueError, match="--probe must be true or false"):
        flag("maybe", "probe")
