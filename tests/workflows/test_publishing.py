# SPDX-License-Identifier: Apache-2.0
"""publish.yaml: a folder that the hub takes; its card tells the truth, its code runs, and nothing is given away."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from custom.components import load_component
from custom.networks import load_encoder, save_encoder
from custom.workflows.publishing import HubFolder

RECORD = {
    "prompts": ["brain tumor"],
    "dataset": "/home/someone/hospital_7/patients",
    "region_dir": "/home/someone/regions",
    "added_later": "Jane Doe",
    "masking": "/home/someone/mine/region.yaml",
    "mask_options": {"region_ratio": 0.8},
    "localizer": "concept",
    "gate": {"verdicts": {"brain tumor": "use with care"}, "masked_at_random_instead": False},
    "cell_size": 8,
    "crop_to_body": True,
    "image_size": [64, 64],
    "epochs": 2,
    "seed": 3,
    "versions": {"torch": "2.14.1"},
}
HISTORY = "epoch,hidden_ratio,region_hidden_ratio,background_hidden_ratio\n1,0.5,0.5,0.5\n2,0.41,0.79,0.29\n"


def pretrained(folder: Path, configs: Path, name: str, spatial_dims: int = 2, **record: Any) -> Path:
    spec = load_component(configs / "encoders", name, spatial_dims=spatial_dims, in_channels=1)
    torch.manual_seed(0)
    file = save_encoder(folder / "pretrain" / "encoder.safetensors", spec.build(), spec, {**RECORD, **record})
    file.with_name("history.csv").write_text(HISTORY)
    return file


def publish(file: Path, configs: Path, output: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Header and text of the card."""
    options = {"title": "A brain encoder", "strategies": configs / "masking", **options}
    folder = HubFolder(file, output, **options).run()
    _, header, text = (folder / "README.md").read_text().split("---\n", maxsplit=2)
    return yaml.safe_load(header), text


def snippets(text: str) -> dict[str, str]:
    return dict(re.findall(r"### (.+?)\n\n```python\n(.+?)```", text, re.DOTALL))


def run_in(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with monkeypatch.context() as context:
        context.chdir(folder)
        exec(code, names)
    return names


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, configs: Path) -> tuple[Path, Path, dict[str, Any], str]:
    root = tmp_path_factory.mktemp("published")
    file = pretrained(root, configs, "resnet18")
    return file, root / "hub", *publish(file, configs, root / "hub", dataset="Brains of 2026", tags=["brain"])


def test_the_hub_reads_its_header(published):
    _, folder, header, _ = published
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "monai"
    assert header["pipeline_tag"] == "image-feature-extraction"
    assert {"masked-image-modeling", "2d", "brain"} <= set(header["tags"])
    cards = pytest.importorskip("huggingface_hub")
    card = cards.ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"


def test_the_card_says_how_it_was_pretrained(published):
    text = published[3]
    for said in (
        "# A brain encoder",
        "pictures (Brains of 2026)",
        '| prompts | "brain tumor" |',
        '"brain tumor": use with care',
        "| masking | region |",
        "region_ratio=0.8, background_ratio=0.3",
        "hidden ratio 0.41, region hidden ratio 0.79, background hidden ratio 0.29",
        "| epochs | 2 |",
        "layer4: 512 channels at stride 32",
        "11.18 million",
        "not a medical device",
    ):
        assert said in text
    assert "This encoder is a control" not in text


def test_nothing_of_the_machine_is_given_away(published):
    _, folder, _, text = published
    record = (folder / "encoder.json").read_text()
    for told in (text, record):
        for secret in ("someone", "hospital_7", "Jane Doe", "regions", str(folder)):
            assert secret not in told
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "encoder.json", "encoder.safetensors", "torchvision.safetensors"
    }  # fmt: skip


def test_the_encoder_is_the_same_file(published):
    file, folder, _, _ = published
    assert (folder / "encoder.safetensors").read_bytes() == file.read_bytes()
    assert (
        json.loads((folder / "encoder.json").read_text())["sha256"]
        == json.loads(file.with_suffix(".json").read_text())["sha256"]
    )


@torch.no_grad()
def test_its_code_runs_and_every_library_computes_the_same(published, monkeypatch):
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    file, folder, _, text = published
    code = snippets(text)
    assert list(code) == ["This project", "MONAI", "torchvision", "timm"]
    scan = torch.rand(2, 1, 64, 96)
    expected = load_encoder(file).eval()(scan)[-1]
    own = run_in(folder, code["This project"], monkeypatch)
    assert len(own["maps"]) == 4
    monai = run_in(folder, code["MONAI"], monkeypatch)["network"].eval()
    value = monai.maxpool(monai.act(monai.bn1(monai.conv1(scan))))
    for stage in (monai.layer1, monai.layer2, monai.layer3, monai.layer4):
        value = stage(value)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    picture = scan.mT.expand(-1, 3, -1, -1)  # upright, grey in three channels
    timm = run_in(folder, code["timm"], monkeypatch)["network"].eval()
    torch.testing.assert_close(timm.forward_features(picture).mT, expected, rtol=1e-4, atol=1e-4)
    vision = run_in(folder, code["torchvision"], monkeypatch)["network"].eval()
    vision.fc = torch.nn.Identity()
    torch.testing.assert_close(vision(picture), expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "spatial_dims"), [("medicalnet_resnet10", 2), ("segresnet", 3)])
def test_networks_that_only_monai_has(name, spatial_dims, configs, tmp_path, monkeypatch):
    file = pretrained(tmp_path, configs, name, spatial_dims)
    _, text = publish(file, configs, tmp_path / "hub")
    assert list(snippets(text)) == ["This project", "MONAI"]
    assert "torchvision" not in text
    loaded = run_in(tmp_path / "hub", snippets(text)["MONAI"], monkeypatch)
    own = load_encoder(file).plain_state_dict()
    assert not loaded["keys"].unexpected_keys
    state = loaded["network"].state_dict()
    assert all(torch.equal(state[key], value) for key, value in own.items())
    assert "a data set that is not named" in text


def test_nnunets_encoder(configs, tmp_path, monkeypatch):
    pytest.importorskip("dynamic_network_architectures")
    file = pretrained(tmp_path, configs, "nnunet_resenc_small", 3)
    _, text = publish(file, configs, tmp_path / "hub", nnunet_classes=3)
    code = snippets(text)
    assert list(code) == ["This project", "nnU-Net (dynamic-network-architectures)"]
    network = run_in(tmp_path / "hub", code["nnU-Net (dynamic-network-architectures)"], monkeypatch)["network"].eval()
    array = torch.rand(1, 1, 16, 24, 32)  # [Z, Y, X]
    with torch.no_grad():
        theirs = network.encoder(array)[-1].permute(0, 1, 4, 3, 2)
        torch.testing.assert_close(load_encoder(file).eval()(array.permute(0, 1, 4, 3, 2))[-1], theirs)
        assert network(array)[0].shape == (1, 3, 16, 24, 32)


@pytest.mark.parametrize(
    "record",
    [
        {"prompts": []},
        {"masking": "region_matched_random"},
        {"gate": {"verdicts": {"brain tumor": "do not use"}, "masked_at_random_instead": True}},
    ],
)
def test_a_control_is_called_one(record, configs, tmp_path):
    _, text = publish(pretrained(tmp_path, configs, "resnet10_narrow", **record), configs, tmp_path / "hub")
    assert "This encoder is a control: what was hidden was drawn at random" in text


def test_phantoms_are_called_phantoms(configs, tmp_path):
    file = pretrained(tmp_path, configs, "resnet10_narrow", dataset="phantom:brain_mri_2d")
    assert "no real scan was seen" in publish(file, configs, tmp_path / "hub")[1]


def test_ratios_of_another_run_are_not_told(configs, tmp_path):
    file = pretrained(tmp_path, configs, "resnet10_narrow", epochs=7)
    assert "hidden ratio" not in publish(file, configs, tmp_path / "hub")[1]


@pytest.mark.parametrize("option", ["title", "dataset"])
def test_a_path_of_this_machine_is_refused(option, configs, tmp_path):
    file = pretrained(tmp_path, configs, "resnet10_narrow")
    with pytest.raises(ValueError, match=r"README\.md: /home/someone"):
        publish(file, configs, tmp_path / "hub", **{option: "Scans of /home/someone/scans"})
    assert not list((tmp_path / "hub").iterdir())


def test_a_folder_with_other_files_is_refused(configs, tmp_path):
    file = pretrained(tmp_path, configs, "resnet10_narrow")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "patients.csv").write_text("secret")
    with pytest.raises(ValueError, match=r"hub holds other files \(patients\.csv\)"):
        publish(file, configs, tmp_path / "hub")


def test_an_earlier_folder_is_replaced(configs, tmp_path, caplog):
    (tmp_path / "hub").mkdir()
    for name in ("README.md", "torchvision.safetensors"):
        (tmp_path / "hub" / name).write_text("of another encoder")
    with caplog.at_level(logging.INFO):
        publish(pretrained(tmp_path, configs, "resnet10_narrow"), configs, tmp_path / "hub")
    assert not (tmp_path / "hub" / "torchvision.safetensors").exists()
    assert "torchvision.safetensors is not written: torchvision has no monai.networks.nets.resnet10" in caplog.text
    assert "hf upload USER/NAME" in caplog.text


def test_a_changed_file_is_refused(configs, tmp_path):
    file = pretrained(tmp_path, configs, "resnet10_narrow")
    record = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps({**record, "sha256": "0" * 64}))
    with pytest.raises(ValueError, match="not the file that its JSON record describes"):
        publish(file, configs, tmp_path / "hub")
