# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys

import pytest
import torch
from monai.data import MetaTensor

from custom.components import load_component
from custom.localizers.base import Localizer
from custom.localizers.external import VoxTell, WorkerError
from custom.localizers.pretrained import MissingWeightsError
from custom.regions import LocalizeRegiond, RegionStore


@pytest.fixture(scope="module")
def voxtell(fake_voxtell, model_dir):
    localizer = VoxTell(sys.executable, model_dir, device="cpu", environment=fake_voxtell)
    yield localizer
    localizer.close()


@pytest.fixture
def scan(generator):
    """A body of 6 × 8 × 10 voxels within air."""
    volume = torch.zeros(1, 10, 14, 12)
    volume[0, 1:7, 2:10, 1:11] = 1 + torch.rand(6, 8, 10, generator=generator)
    return volume


def test_each_prompt_has_its_map_in_the_scan_s_orientation(voxtell, scan):
    assert isinstance(voxtell, Localizer)
    head, right, front, half = voxtell.localize(scan, ["Head", "right", "front", "half"])
    body = scan[0] > 0
    x, y, z = torch.meshgrid(*(torch.arange(size) for size in scan.shape[1:]), indexing="ij")
    assert torch.equal(right > 0.5, body & (x >= 4))
    assert torch.equal(front > 0.5, body & (y >= 6))
    assert torch.equal(head > 0.5, body & (z >= 6))
    assert torch.equal(half, 0.5 * body)
    assert right.dtype == torch.float32


def test_maps_are_the_sigmoid_of_logits(voxtell, scan):
    inside = scan[0, 1:7, 2:10, 1:11]
    expected = (10 * (inside - inside.mean()) / inside.std(correction=0)).sigmoid()
    found = voxtell.localize(scan, ["bright"])[0, 1:7, 2:10, 1:11]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert torch.equal(found, voxtell.localize(scan, ["bright"])[0, 1:7, 2:10, 1:11])


def test_no_prompt_and_constant_scans_ask_nobody():
    localizer = VoxTell()
    assert localizer.localize(torch.rand(1, 4, 5, 6), []).shape == (0, 4, 5, 6)
    assert localizer.localize(torch.ones(1, 4, 5, 6), ["liver"]).max() == 0
    assert localizer._worker is None


def test_scans_of_unusual_spacing_are_resampled(fake_voxtell, model_dir, scan):
    image = MetaTensor(scan, affine=torch.diag(torch.tensor([0.5, 0.5, 3.0, 1.0])))
    localizer = VoxTell(sys.executable, model_dir, device="cpu", spacing=1.0, environment=fake_voxtell)
    found = localizer.localize(image, ["right"])
    localizer.close()
    assert found.shape == scan.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert found[0, 5, 4:8, 3:9].min() > 0.9
    assert found[0, 1:3].max() < 0.1


@pytest.mark.parametrize("where", ["big", "hidden", "far"])
def test_running_out_of_gpu_memory_is_not_the_end(voxtell, scan, where):
    """In the sliding window, in a thread of it whose error hides the cause, or when logits become probabilities."""
    assert voxtell.localize(scan, [where]).max() < 0.01


def test_another_error_of_a_thread_is_one(voxtell, scan):
    with pytest.raises(WorkerError, match="producer thread failed"):
        voxtell.localize(scan, ["broken"])


def test_a_variable_that_chooses_other_weights_does_not_reach_it(fake_voxtell, model_dir, scan, monkeypatch):
    monkeypatch.setenv("VOXTELL_MODEL", "voxtell_v1.0")
    localizer = VoxTell(sys.executable, model_dir, device="cpu", environment=fake_voxtell)
    assert localizer.localize(scan, ["variable"]).max() < 0.01
    localizer.close()
    with pytest.raises(ValueError, match=r"VOXTELL_MODEL.*model_dir"):
        VoxTell(environment={"VOXTELL_MODEL": "voxtell_v1.0"})


def test_its_maps_are_kept_like_any_others(voxtell, scan, tmp_path):
    localize = LocalizeRegiond(localizer=voxtell, prompts=["half", "right"], store=RegionStore(tmp_path))
    data = {"image": MetaTensor(scan), "scan_id": "a"}
    made = localize(data)["region"]
    read = LocalizeRegiond(prompts=["half", "right"], store=RegionStore(tmp_path, read_only=True))(data)["region"]
    assert torch.equal(made.as_tensor(), read.as_tensor())
    assert made.max() == 1


def test_a_missing_text_encoder_says_for_which_prompt(voxtell, scan):
    with pytest.raises(WorkerError, match=r"\['Unheard of'\] is not among the 1 (.|\n)*text_encoder: FOLDER"):
        voxtell.localize(scan, ["right", "Unheard of"])


def test_it_is_described_without_being_started(model_dir):
    described = json.loads(json.dumps(VoxTell(model_dir=model_dir, spacing=1.5).describe()))
    assert described["model"] == "voxtell_v1.1"
    assert len(described["weights"]) == 16
    assert described["spacing"] == 1.5
    assert VoxTell().describe()["model"] == "mrokuss/VoxTell/voxtell_v1.1"


def test_embeddings_beside_the_model_are_used(model_dir):
    bank = model_dir.parent / "embeddings" / model_dir.name / "text_embeddings.npz"
    assert VoxTell(model_dir=model_dir).options["embeddings"] is None
    bank.parent.mkdir(parents=True)
    bank.write_bytes(b"")
    assert VoxTell(model_dir=model_dir).options["embeddings"] == str(bank)
    bank.unlink()


def test_the_config_holds_the_defaults(configs, model_dir):
    localizer = load_component(configs / "localizers", "voxtell", {"model_dir": str(model_dir)})
    assert localizer.options == VoxTell(model_dir=model_dir).options
    assert (localizer.start_minutes, localizer.scan_minutes) == (30, 60)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"plans.json(.|\n)*hf download mrokuss/VoxTell"):
        VoxTell(model_dir=tmp_path)


@pytest.mark.parametrize(
    "command", ["pip install voxtell", "-m venv", "hf download mrokuss/VoxTell", "hf download Qwen"]
)
def test_a_missing_environment_says_how_to_make_it(scan, command, tmp_path):
    with pytest.raises(WorkerError, match=command):
        VoxTell(tmp_path / "bin" / "python").localize(scan, ["liver"])


def test_an_environment_without_voxtell_says_how_to_make_it(scan, model_dir):
    with pytest.raises(WorkerError, match=r"No module named 'voxtell'(.|\n)*pip install voxtell"):
        VoxTell(sys.executable, model_dir).localize(scan, ["liver"])


@pytest.mark.parametrize(("download", "offline"), [(False, "1"), (True, "0")])
def test_it_is_offline_unless_told_otherwise(fake_voxtell, scan, monkeypatch, download, offline):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(WorkerError, match=rf"HF_HUB_OFFLINE={offline}(.|\n)*hf download mrokuss/VoxTell"):
        VoxTell(sys.executable, download=download, environment=fake_voxtell).localize(scan, ["liver"])


def test_pictures_are_refused(voxtell):
    with pytest.raises(ValueError, match="3 spatial"):
        voxtell.localize(torch.rand(1, 8, 8), ["liver"])
