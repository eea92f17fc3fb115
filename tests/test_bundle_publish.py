# SPDX-License-Identifier: Apache-2.0
"""From pretraining to the hub: publish.yaml as a user runs it, and MONAI's own upload, without the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import scripts as monai_bundle

from custom.networks import load_encoder
from datasets.phantoms import ensure_phantoms
from tests.bundle_runs import run_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hub(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published folder of an encoder that saw generated slices for two epochs."""
    root = tmp_path_factory.mktemp("hub")
    scans = ensure_phantoms("brain_mri", 2, root=root, size=32, counts={"train": 4, "val": 2, "test": 1})
    quick = {"max_epochs": 2, "batch_size": 4, "image_size": [32, 32], "decoder_options": {"width": 8}, "device": CPU}
    run_config(configs, "pretrain", dataset_dir=str(scans), output_dir=str(root / "pretrain"), **quick)
    encoder = str(root / "pretrain" / "encoder.safetensors")
    run_config(configs, "publish", encoder=encoder, output_dir=str(root / "brain"), dataset_name="slices of a test")
    return root / "brain"


class Recorded:
    """Stands in for the hub: keeps what would be sent."""

    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, token: str | None = None) -> None:
        Recorded.calls = []

    def create_repo(self, **arguments: Any) -> None:
        Recorded.calls.append(("create_repo", arguments))

    def upload_folder(self, **arguments: Any) -> str:
        folder = Path(arguments["folder_path"])
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        Recorded.calls.append(("upload_folder", {**arguments, "files": files}))
        return "https://hub.invalid/" + arguments["repo_id"]

    def create_tag(self, **arguments: Any) -> None:
        Recorded.calls.append(("create_tag", arguments))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr(monai_bundle.huggingface_hub, "HfApi", Recorded)
    return Recorded


def header(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def test_the_card_tells_of_the_run(hub):
    text = (hub / "README.md").read_text()
    assert "slices of a test" in text
    assert "region hidden ratio" in text
    assert str(hub.parent) not in text + (hub / "encoder.json").read_text()
    assert json.loads((hub / "encoder.json").read_text())["dataset"] == "slices of a test"
    assert load_encoder(hub / "encoder.safetensors").channels == [64, 128, 256, 512]


def test_classification_takes_the_published_encoder(hub, configs, tmp_path):
    from custom.tasks.encoders import encoder_facts

    facts = encoder_facts(hub / "encoder.safetensors")
    assert facts["preprocessing"]["image_size"] == [32, 32]
    assert facts["encoder_keys"]["missing"] == []


def test_monais_upload_keeps_the_card(hub, no_network, tmp_path):
    folder = shutil.copytree(hub, tmp_path / "brain")
    before = (folder / "README.md").read_text()
    monai_bundle.push_to_hf_hub("someone/brain", "brain", str(tmp_path), version="1.0.0")
    sent = dict(no_network.calls)
    assert sent["upload_folder"]["files"] == {
        "README.md", "encoder.json", "encoder.safetensors", "torchvision.safetensors"
    }  # fmt: skip
    assert sent["create_repo"] == {"repo_id": "someone/brain", "private": True, "exist_ok": True}
    assert (folder / "README.md").read_text() == before


def test_monais_upload_takes_a_packed_bundle(no_network, configs, tmp_path):
    scans = ensure_phantoms("brain_mri", 2, root=tmp_path, size=32, counts={"train": 2, "val": 1, "test": 1})
    quick = {"max_epochs": 1, "batch_size": 2, "resamples": 2, "segmenter_options": {"channels": 4}, "device": CPU}
    quick |= {"backbone": "resnet18_narrow", "image_size": [32, 32]}
    run_config(configs, "train", dataset_dir=str(scans), output_dir=str(tmp_path / "trained"), **quick)
    model = str(tmp_path / "trained" / "model.pt")
    run_config(
        configs, "pack", model=model, output_dir=str(tmp_path / "zoo"), name="pushed_segmentation", package="pushed"
    )
    bundle = tmp_path / "zoo" / "models" / "pushed_segmentation"
    monai_bundle.push_to_hf_hub("someone/pushed", bundle.name, str(bundle.parent))
    card = header(bundle / "README.md")
    assert card == {"tags": ["monai", "medical"], "library_name": "monai", "license": "apache-2.0"}
    sent = dict(no_network.calls)["upload_folder"]["files"]
    assert {"LICENSE", "configs/metadata.json", "configs/inference.yaml", "models/model.pt", "README.md"} <= sent
    assert not any("__pycache__" in name or "publish" in name for name in sent)
