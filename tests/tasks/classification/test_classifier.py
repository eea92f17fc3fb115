# SPDX-License-Identifier: Apache-2.0
"""Classifier, linear probe and result files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from custom.files import write_atomically
from custom.networks import EncoderSpec, save_encoder
from custom.options import flag
from custom.tasks import BestModel, build_encoder, encoder_facts
from custom.tasks.classification import Classifier, Collected, LinearProbe, collect
from custom.tasks.classification.linear_probe import fit_head
from custom.visual.confidence import confidence_figure
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


@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 0.5]])
def test_probe_with_class_weights_or_several_labels_equals_scikit_learn(weights: list | None) -> None:
    torch.manual_seed(0)
    train = loader(60, 3, 1)
    features = collect(Classifier(TinyEncoder(), 3, 4, freeze=True).eval().features, train, "cpu")
    several = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.float32)
    scaler = StandardScaler().fit(features.values.astype(float))
    inputs = scaler.transform(features.values.astype(float))
    single_weights = None if weights is None else dict(enumerate(weights))
    single = LogisticRegression(C=1.0, max_iter=2000, class_weight=single_weights).fit(inputs, features.labels)
    assert np.allclose(logits(features, features.labels, weights), single.decision_function(inputs), atol=1e-6)
    found = logits(features, several, weights)
    for column in range(3):
        own = None if weights is None else {0: 1, 1: weights[column]}
        regression = LogisticRegression(C=1.0, max_iter=2000, class_weight=own).fit(inputs, several[:, column])
        assert np.allclose(found[:, column], regression.decision_function(inputs), atol=1e-6)


def logits(features: Collected, labels: np.ndarray, weights: list | None) -> np.ndarray:
    head = fit_head(Collected(features.values, labels, []), 1.0, weights)
    return features.values @ head.weight.T + head.bias


def test_probe_of_several_labels_finds_each_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Classifier(TinyEncoder(), 2, 4, freeze=True)

    def batches(seed: int) -> list[dict]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (40, 2), generator=generator).float()
        images = torch.rand(40, 1, 8, 8, generator=generator) * 0.1
        images[:, :, ::2] += labels[:, 0].reshape(-1, 1, 1, 1)
        images[:, :, 1::2] += labels[:, 1].reshape(-1, 1, 1, 1)
        return [{"image": images, "label": labels, "scan_id": [str(i) for i in range(40)]}]

    model = BestModel(tmp_path / "model.pt", network)
    fit = LinearProbe(model, batches(0), batches(1), key_metric="macro_average_precision").fit()
    assert max(fit["val_scores"].values()) > 0.99
    found = collect(network, batches(2), "cpu")
    assert ((found.values > 0) == (found.labels > 0.5)).mean() > 0.95


def test_figures_are_computed_in_full_precision() -> None:
    layer = nn.Linear(8, 1)
    full = collect(layer, loader(4, 2, 0), "cpu").values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(collect(layer, loader(4, 2, 0), "cpu").values, full)


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


def test_many_confusion_matrices_are_drawn_in_rows() -> None:
    figure = confusion_figure({f"test: {index}": [[1, 0], [2, 3]] for index in range(6)}, ["no", "yes"])
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(i // 4, i % 4) for i in range(6)]


def test_pictures_with_words() -> None:
    picture = np.zeros((6, 4), dtype=np.uint8)
    figure = confidence_figure(
        {"right": (picture, "true: a", ("R", "L")), "wrong": (np.zeros((6, 4, 3), np.uint8), "true: b", ("", ""))}
    )
    assert [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes] == [
        ("right", "true: a"),
        ("wrong", "true: b"),
    ]


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("False", False), (True, True), (0, False), (None, False), ("no", False)]
)
def test_flags_from_the_command_line(value: object, expected: bool) -> None:
    assert flag(value, "probe") is expected


def test_a_flag_that_is_neither() -> None:
    with pytest.raises(ValueError, match="--probe must be true or false"):
        flag("maybe", "probe")
