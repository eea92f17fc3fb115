# SPDX-License-Identifier: Apache-2.0
"""pack.yaml: a bundle that the Model Zoo's checks accept and that runs without this repository.

`meta_schema_20240725.json` is the schema of metadata.json (project-monai.github.io, Apache-2.0), kept here because
tests do without the network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image

from custom.metrics.segmentation import figure_text
from custom.tasks.record import write_record
from custom.workflows.packing.checks import check_contents, machine_paths
from custom.workflows.packing.defaults import with_defaults
from custom.workflows.packing.renaming import outside_names, renamed
from datasets.phantoms import ensure_phantoms
from tests.bundle_runs import check_zoo_unit_test, run_config

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Packed:
    """A trained model, its scans, and the bundle made of it; each has a package of its own, as they share a process."""

    scans: Path
    trained: Path
    zoo: Path
    name: str
    package: str

    @property
    def folder(self) -> Path:
        return self.zoo / "models" / self.name

    @property
    def archive(self) -> Path:
        return next(self.zoo.glob(f"{self.name}_v*.zip"))


def pack(configs: Path, model: Path, output: Path, **overrides: Any) -> None:
    run_config(configs, "pack", model=str(model), output_dir=str(output), **overrides)


def made(configs: Path, root: Path, dims: int, **settings: Any) -> Packed:
    scans = ensure_phantoms("brain_mri", dims, root=root, size=32, counts={"train": 2, "val": 1, "test": 2})
    quick = {"max_epochs": 1, "batch_size": 2, "resamples": 10, "segmenter_options": {"channels": 4}, "device": CPU}
    quick |= {"classes": {4: "lesion", 5: "lesion", 2: "matter"}, "dataset_dir": str(scans)}
    run_config(configs, "train", "train", output_dir=str(root / "trained"), **quick, **settings)
    packed = Packed(scans, root / "trained", root / "zoo", f"mri_{dims}d_segmentation", f"packed_{dims}d")
    pack(configs, packed.trained / "model.pt", packed.zoo, name=packed.name, package=packed.package, modality="MR")
    return packed


@pytest.fixture(scope="module")
def pictures(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    root = tmp_path_factory.mktemp("pictures")
    return made(configs, root, 2, backbone="resnet18_narrow", image_size=[32, 32])


@pytest.fixture(scope="module")
def volumes(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    root = tmp_path_factory.mktemp("volumes")
    sizes = {"image_size": [16, 16, 16], "patch_size": [16, 16, 16], "spacing": 9.0}
    return made(configs, root, 3, backbone="resnet10_narrow", **sizes)


@pytest.fixture(params=["pictures", "volumes"])
def packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """Each bundle in turn; its folder is the working folder and on the path, as when one runs it."""
    found: Packed = request.getfixturevalue(request.param)
    monkeypatch.chdir(found.folder)
    monkeypatch.syspath_prepend(str(found.folder))
    return found


def test_the_zoos_checks(packed: Packed) -> None:
    """What its CI calls: schema, shapes of the network, properties; ids and files that it looks for."""
    metadata = json.loads(Path("configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    verify_metadata(meta_file="configs/metadata.json", filepath=str(SCHEMA))
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.yaml"}
    verify_net_in_out(net_id="network_def", device="cpu", **files)
    for name, kind in (("inference", "infer"), ("train", "train")):
        workflow = ConfigWorkflow(
            f"configs/{name}.yaml",
            meta_file="configs/metadata.json",
            logging_file="configs/logging.conf",
            workflow_type=kind,
            dataset_dir=str(packed.scans),
            output_dir=str(packed.zoo / "properties"),
            device=CPU,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
    assert all(Path(name).is_file() for name in ("LICENSE", "models/model.pt", "docs/README.md"))


def test_metadata_says_what_the_network_is(packed: Packed) -> None:
    contract = json.loads((packed.trained / "model.json").read_text())["preprocessing"]
    described = json.loads((packed.folder / "configs" / "metadata.json").read_text())["network_data_format"]
    image, pred = described["inputs"]["image"], described["outputs"]["pred"]
    assert image["spatial_shape"] == pred["spatial_shape"] == (contract["patch_size"] or contract["image_size"])
    assert image["value_range"] == [0, 1]
    assert json.loads(Path("models/model.json").read_text())["preprocessing"] == contract
    assert (image["num_channels"], image["modality"]) == (1, "MR")
    assert pred["channel_def"] == {"0": "background", "1": "lesion", "2": "matter"}
    assert pred["num_channels"] == 3


def test_the_readme_tells_the_figures_and_what_they_leave_out(packed: Packed) -> None:
    test = json.loads((packed.trained / "metrics.json").read_text())["test"]
    figures = [figure_text(test, "nsd"), figure_text(test, "hd95", f" {test['distance_unit']}")]
    assert "NSD {}, HD95 {}.".format(*figures) in (packed.folder / "docs" / "README.md").read_text()


def test_inference_gives_the_predictions_of_the_run_that_trained_the_model(packed: Packed, tmp_path: Path) -> None:
    """On the voxels of the files; in the bundle the classes have the codes 1, 2 instead of the data set's."""
    run_config(
        Path("configs"), "inference", "infer", dataset_dir=str(packed.scans), output_dir=str(tmp_path), device=CPU
    )
    codes = np.array([0, 4, 2])
    files = list((packed.trained / "predictions" / "test" / "images").iterdir())
    assert len(files) == 2
    for wanted in files:
        stem, suffix = wanted.name.split(".", 1)
        found = next(tmp_path.rglob(f"{stem}_seg.{suffix}"))
        if suffix == "png":
            assert np.array_equal(codes[np.asarray(Image.open(found))], np.asarray(Image.open(wanted)))
            continue
        scan, ours, theirs = (nib.load(path) for path in (packed.scans / "images" / wanted.name, found, wanted))
        assert ours.shape == scan.shape
        assert np.allclose(ours.affine, scan.affine)
        assert ours.get_data_dtype() == np.uint8
        assert np.array_equal(codes[np.asarray(ours.dataobj)], np.asarray(theirs.dataobj))


def test_the_unit_test_for_the_zoo(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.zoo)
    check_zoo_unit_test(packed.zoo, packed.name)


def test_the_zip_runs_alone(pictures: Packed, tmp_path: Path) -> None:
    """Unpacked elsewhere, in a process that knows nothing of the repository: all modules, and the network."""
    with zipfile.ZipFile(pictures.archive) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / pictures.name
    program = f"""
import importlib, pkgutil, sys
import {pictures.package} as package
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(found.name)
assert "custom" not in sys.modules
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("configs/inference.yaml")
import torch
parser.get_parsed_content("network_def").load_state_dict(torch.load("models/model.pt", weights_only=True))
"""
    outcome = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    text = "".join(path.read_text() for path in folder.rglob("*.yaml"))
    assert "_target_: custom." not in text
    assert "_target_: datasets." not in text
    assert "bundle/configs" not in text


def test_the_zip_is_named_and_laid_out_as_in_the_zoo(pictures: Packed, configs: Path, tmp_path: Path) -> None:
    version = json.loads((configs / "metadata.json").read_text())["version"]
    assert pictures.archive.name == f"{pictures.name}_v{version}.zip"
    with zipfile.ZipFile(pictures.archive) as archive:
        names = archive.namelist()
    inside = {f"{pictures.name}/{path.relative_to(pictures.folder)}" for path in pictures.folder.rglob("*.*")}
    assert {name for name in inside if Path(name).suffix in (".yaml", ".py", ".pt", ".md")} <= set(names)
    assert not any("__pycache__" in name or name.startswith(("/", "..")) for name in names)
    again = tmp_path / "zoo"
    pack(configs, pictures.trained / "model.pt", again, name=pictures.name, package=pictures.package, modality="MR")
    assert (again / pictures.archive.name).read_bytes() == pictures.archive.read_bytes()


def test_large_weights_are_linked(pictures: Packed, configs: Path, tmp_path: Path, monkeypatch, raises_cause) -> None:
    monkeypatch.setattr("custom.workflows.packing.pack.LARGEST_FILE", 1000)
    model = pictures.trained / "model.pt"
    with raises_cause("--weights_url"):
        pack(configs, model, tmp_path)
    pack(configs, model, tmp_path, weights_url="https://example.org/model.pt", metadata="{version: 9.0.0}")
    folder = tmp_path / "models" / "text_guided_mim_segmentation"
    (entry,) = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert (entry["path"], entry["url"]) == ("models/model.pt", "https://example.org/model.pt")
    assert entry["hash_val"] == json.loads((folder / "models" / "model.json").read_text())["sha256"]
    assert not (folder / "models" / "model.pt").exists()
    with zipfile.ZipFile(tmp_path / f"{folder.name}_v9.0.0.zip") as archive:
        assert archive.read(f"{folder.name}/models/model.pt") == model.read_bytes()
        assert f"{folder.name}/large_files.yml" not in archive.namelist()


def test_what_is_of_this_machine_stays_here(pictures: Packed, configs: Path, tmp_path: Path) -> None:
    """The record of the run knows where its scans lay; the bundle's does not."""
    assert str(pictures.scans) in (pictures.trained / "model.json").read_text()
    with zipfile.ZipFile(pictures.archive) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if not name.endswith(".pt"))
    assert str(pictures.scans.parent).encode() not in content
    assert str(configs.parents[1]).encode() not in content


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("docs/scan.nii.gz", b"\x1f\x8b", "is it data"),
        ("docs/table.csv", b"a,b", "is it data"),
        ("pkg/__pycache__/a.pyc", b"", "a cache"),
        (".git/config", b"", "a cache"),
        ("configs/a.yaml", b"dataset_dir: /home/somebody/scans", "the path /home/somebody"),
        ("configs/b.yaml", b"dataset_dir: C:\\scans", r"the path C:\\scans"),
    ],
)
def test_data_caches_and_machine_paths_are_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        check_contents(tmp_path)


def test_weights_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "models" / "model.pt")
    check_contents(tmp_path)
    torch.save({"weight": torch.zeros(1), "trained_on": "somewhere"}, tmp_path / "models" / "model.pt")
    with pytest.raises(ValueError, match="more than the network's tensors"):
        check_contents(tmp_path)


def test_addresses_and_neutral_paths_are_no_machine_paths() -> None:
    assert machine_paths("https://example.org/home/page, a/tmp/b, ./data/scans, </home>") == []


def test_errors_come_before_anything_is_written(pictures: Packed, configs: Path, tmp_path: Path, raises_cause) -> None:
    model = pictures.trained / "model.pt"
    for options, message in (
        ({"name": "Text-guided"}, "ending in _segmentation"),
        ({"package": "custom"}, "a name of its own"),
        ({"package": "a.b"}, "a name of its own"),
    ):
        with raises_cause(message):
            pack(configs, model, tmp_path / "zoo", **options)
    with raises_cause("One is missing"):
        pack(configs, tmp_path / "none.pt", tmp_path / "zoo")
    other = shutil.copy(model, tmp_path / "model.pt")
    write_record(other, {"task": "detection", "config": "detect", "settings": {}, "decisions": {}})
    with raises_cause("detect.yaml for detection"):
        pack(configs, Path(other), tmp_path / "zoo")
    assert list((tmp_path / "zoo").iterdir()) == []
    own = tmp_path / "zoo" / "models" / "text_guided_mim_segmentation"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("irreplaceable")
    with raises_cause("is there and no bundle"):
        pack(configs, model, tmp_path / "zoo")
    assert (own / "thesis.txt").exists()


def test_names_in_the_package() -> None:
    source = (
        "from custom.files import a\nfrom custom import b\nfrom datasets import c\nimport datasets.d\n"
        'x = self.custom.y\n_HOMES = {"ScanError": "datasets.errors"}\n# see custom/networks and the datasets. And'
    )
    assert renamed(source, "pkg") == (
        "from pkg.files import a\nfrom pkg import b\nfrom pkg.datasets import c\nimport pkg.datasets.d\n"
        'x = self.custom.y\n_HOMES = {"ScanError": "pkg.datasets.errors"}\n# see pkg/networks and the datasets. And'
    )
    assert outside_names(source) == ["custom", "custom.files", "datasets", "datasets.d"]
    assert outside_names(renamed(source, "pkg")) == []
    assert renamed("# Run from the repository root: bundle/configs/a.yaml\nbundle_root: bundle\n", "pkg") == (
        '# Run from the bundle\'s folder: configs/a.yaml\nbundle_root: "."\n'
    )


def test_defaults_keep_the_comments() -> None:
    text = 'a: 1            # what a is\nb: "@c#d"\nnested:\n  a: 5\n'
    assert with_defaults(text, {"a": [1, 2], "b": None}) == "a: [1, 2]       # what a is\nb: null\nnested:\n  a: 5\n"
    with pytest.raises(ValueError, match="'missing' is 0 times"):
        with_defaults(text, {"missing": 1})
    with pytest.raises(ValueError, match="nested"):
        with_defaults(text, {"nested": {"b": 6}})


def test_a_round_of_federated_learning(pictures: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's client takes the server's weights, learns for an epoch, sends its own and measures them."""
    from monai.fl.client import MonaiAlgo
    from monai.fl.utils.constants import ExtraItems
    from monai.fl.utils.exchange_object import ExchangeObject

    monkeypatch.chdir(pictures.folder)
    monkeypatch.syspath_prepend(str(pictures.folder))
    settings = {"dataset_dir": str(pictures.scans), "output_dir": str(tmp_path), "device": CPU, "batch_size": 2}
    client = MonaiAlgo(
        bundle_root=str(pictures.folder),
        config_train_filename="configs/train.yaml",
        config_evaluate_filename="configs/train.yaml",
        train_kwargs=dict(settings),
        eval_kwargs=dict(settings),
        send_weight_diff=False,
    )
    client.initialize({ExtraItems.CLIENT_NAME: "site"})
    sent = torch.load("models/model.pt", weights_only=True)
    client.train(ExchangeObject(weights={name: value.numpy() for name, value in sent.items()}))
    received = client.get_weights().weights
    assert received is not None
    assert received.keys() == sent.keys()
    assert any(not torch.equal(torch.as_tensor(received[name]), value) for name, value in sent.items())
    metrics = client.evaluate(
        ExchangeObject(weights={name: np.asarray(value) for name, value in received.items()})
    ).metrics
    assert metrics is not None
    assert 0 <= metrics["mean_dice"] <= 1
    assert torch.load("models/model.pt", weights_only=True).keys() == sent.keys()
