# SPDX-License-Identifier: Apache-2.0
"""pack_localizer.yaml: the text-prompted localizer as a bundle, which runs without this repository."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pkgutil
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
from safetensors.torch import save_file

from custom.localizers.operators.finder import build_network
from custom.workflows import load_localizer
from custom.workflows.packing.checks import check_contents
from datasets.loading import LoadScand
from datasets.phantoms import ensure_phantoms
from tests.bundle_runs import check_zoo_unit_test, run_config

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
NAME = "text_guided_mim_localization"
CPU = torch.device("cpu")
OBLIQUE = np.array([[0.9, 0.2, 0.0, -30], [-0.3, 1.4, 0.1, 12], [0.1, -0.2, -2.5, 7], [0, 0, 0, 1.0]])


@dataclass(frozen=True)
class Packed:
    """A bundle, scans for it, and the localizer that it was made of; each has a package of its own."""

    zoo: Path
    scans: Path
    dims: int
    package: str
    prompt: str
    localizer: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.zoo / "models" / NAME

    @property
    def archive(self) -> Path:
        return next(self.zoo.glob(f"{NAME}_v*.zip"))


def pack(configs: Path, output: Path, **overrides: Any) -> Path:
    run_config(configs, "pack_localizer", output_dir=str(output), **overrides)
    return output / "models" / overrides.get("name", NAME)


def infer(packed: Packed, output: Path, scans: Path | None = None, **options: Any) -> None:
    run_config(
        packed.folder / "configs",
        "inference",
        "infer",
        dataset_dir=str(scans or packed.scans),
        output_dir=str(output),
        device=CPU,
        **{f"displayable_configs#{name}": value for name, value in options.items()},
    )


def taught(folder: Path) -> Path:
    """A tiny 3D network with random weights, as self_teach.yaml leaves it."""
    spec = {"class": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [4, 8, 8]}
    spec |= {"strides": [2, 2], "num_res_units": 0, "norm": "BATCH"}
    torch.manual_seed(0)
    path = folder / "self_taught.safetensors"
    save_file({name: value.contiguous() for name, value in build_network(spec).state_dict().items()}, path)
    record = {"network": spec, "spatial_dims": 3, "image_size": [16, 16, 16], "flips": [0], "blur": 0.02, "half": 0.5}
    record |= {"area": "anywhere", "modality": "mri", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    record |= {"shots": 1, "shot_ids": ["images/secret.nii.gz"], "fit": {"place": str(folder)}}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def pictures(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """The embedded localizer on radiographs: PNG, and a slice as NIfTI."""
    root = tmp_path_factory.mktemp("pictures")
    scans = root / "scans"
    scans.mkdir()
    made = ensure_phantoms("chest_xray", 2, root=root, size=64, counts={"train": 2, "val": 1, "test": 1})
    for number, path in enumerate(sorted(made.glob("images/*"))[:2]):
        shutil.copy(path, scans / f"picture_{number}{path.suffix}")
    values = np.asarray(Image.open(scans / "picture_0.png"), dtype=np.int16).T[:, :, None]
    nib.save(nib.Nifti1Image(values[::-1], np.diag([-0.5, -0.5, 1.0, 1.0])), scans / "slice.nii.gz")
    pack(configs, root / "zoo", package="packed_pictures", prompt="lungs on x-ray", modality="X-ray")
    return Packed(root / "zoo", scans, 2, "packed_pictures", "lungs on x-ray", {"name": "concept"})


@pytest.fixture(scope="module")
def volumes(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """A self-taught network and a refiner on an oblique volume."""
    root = tmp_path_factory.mktemp("volumes")
    scans = root / "scans"
    scans.mkdir()
    values = np.random.default_rng(0).random((21, 18, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, OBLIQUE), scans / "volume.nii.gz")
    options = {
        "localizer": "self_taught",
        "localizer_options": {"weights": str(taught(root))},
        "refiners": ["components"],
        "refiner_options": {"components": {"threshold": 0.5}},
    }
    pack(configs, root / "zoo", package="packed_volumes", spatial_dims=3, modality="MR", **options)
    made_of = {"name": options.pop("localizer"), "options": options.pop("localizer_options"), **options}
    return Packed(root / "zoo", scans, 3, "packed_volumes", "brain tumor", made_of)


@pytest.fixture(params=["pictures", "volumes"])
def packed(request: pytest.FixtureRequest) -> Packed:
    found: Packed = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Work in an empty folder, as a server does; the bundles' packages are found by their paths."""
    for name in ("pictures", "volumes"):
        monkeypatch.syspath_prepend(str(request.getfixturevalue(name).folder))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def maps_of(packed: Packed, configs: Path, scan: Path, prompts: list[str]) -> np.ndarray:
    """Maps of the repository's own localizer ``[P, X, Y, Z]``, turned to the voxels of the file by nibabel."""
    localizer = load_localizer(configs, **packed.localizer, spatial_dims=packed.dims)
    image = LoadScand("image", packed.dims)({"image": str(scan)})["image"]
    found = localizer.localize(image, prompts).numpy()
    if scan.suffix != ".gz":
        return found[..., None]
    stored = nib.load(scan)
    turn = nib.orientations.io_orientation(stored.affine)
    if packed.dims == 2:  # slices are turned as one looks at them: right and front at low indices
        found, turn[:2, 1] = found[..., None], -turn[:2, 1]
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    return np.stack([nib.orientations.apply_orientation(each, back) for each in found])


def labels_of(output: Path, scan: Path) -> np.ndarray:
    stem = scan.name.split(".")[0]
    file = next(output.rglob(f"{stem}_seg.*"))
    if file.suffix == ".png":
        return np.asarray(Image.open(file)).T[:, :, None]
    found, stored = nib.load(file), nib.load(scan)
    assert found.shape == stored.shape
    assert np.allclose(found.affine, stored.affine)
    assert found.get_data_dtype() == np.uint8
    return np.asarray(found.dataobj)


def test_the_zoos_checks(packed: Packed, tmp_path: Path) -> None:
    """What its CI calls: schema, shapes of the network, properties; ids and files that it looks for."""
    configs = packed.folder / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.yaml")}
    verify_metadata(meta_file=files["meta_file"], filepath=str(SCHEMA))
    for size in (1, 24):  # the CI's choice, and one that shows something
        verify_net_in_out(net_id="network_def", device="cpu", any=size, bundle_root=str(packed.folder), **files)
    workflow = ConfigWorkflow(
        files["config_file"],
        meta_file=files["meta_file"],
        logging_file=str(configs / "logging.conf"),
        workflow_type="infer",
        bundle_root=str(packed.folder),
        dataset_dir=str(packed.scans),
        output_dir=str(tmp_path),
        device=CPU,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert all((packed.folder / name).is_file() for name in ("LICENSE", "models/model.pt", "docs/README.md"))
    here = {path.name for path in configs.glob("*.yaml")}
    assert {"inference.yaml", "localize.yaml", "pretrain.yaml", "self_teach.yaml"} <= here
    assert not {"train.yaml", "evaluate.yaml", "pack.yaml", "pack_localizer.yaml", "publish.yaml"} & here
    assert torch.load(packed.folder / "models" / "model.pt", weights_only=True) == {}


def test_metadata(packed: Packed) -> None:
    """The first input and output have the names, and the labels, that MONAI Label reads."""
    metadata = json.loads((packed.folder / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    described = metadata["network_data_format"]
    assert (next(iter(described["inputs"])), next(iter(described["outputs"]))) == ("image", "pred")
    assert len(described["inputs"]["image"]["spatial_shape"]) == packed.dims
    assert described["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "region"}


def test_the_region_is_that_of_the_repositorys_localizer(packed: Packed, configs: Path, tmp_path: Path) -> None:
    """Voxel by voxel, on pictures, slices and oblique volumes; for the default prompt."""
    infer(packed, tmp_path / "out")
    for scan in packed.scans.iterdir():
        expected = maps_of(packed, configs, scan, [packed.prompt])[0] >= 0.5
        found = labels_of(tmp_path / "out", scan)
        assert expected.any()
        assert np.array_equal(found == 1, expected)
        assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize(
    "prompt",
    [["left lung", "right lung"], "['left lung', 'right lung']", "[left lung, right lung]"],
)
def test_several_prompts_and_another_threshold(pictures: Packed, configs: Path, tmp_path: Path, prompt: Any) -> None:
    infer(pictures, tmp_path / "out", text_prompt=prompt, threshold="0.3")
    scan = pictures.scans / "picture_1.png"
    expected = (maps_of(pictures, configs, scan, ["left lung", "right lung"]) >= 0.3).any(axis=0)
    assert np.array_equal(labels_of(tmp_path / "out", scan) == 1, expected)
    one = maps_of(pictures, configs, scan, ["left lung"])[0] >= 0.3
    assert 0 < one.sum() < expected.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_prompt": "chair"}, "'chair' names nothing .* Known: body, brain tumor, .*lung opacity"),
        ({"text_prompt": "left lung without nodules"}, "negation.*Known: body"),
        ({"text_prompt": "  "}, "is empty.*Known: body, brain tumor"),
        ({"text_prompt": []}, "is empty.*Known: body"),
        ({"text_prompt": "['left lung"}, "starts like a list"),
        ({"threshold": "much"}, "threshold must be a probability.*'much'"),
        ({"threshold": 0}, "threshold must be a probability"),
    ],
)
def test_wrong_requests(pictures: Packed, tmp_path: Path, raises_cause, options: dict, message: str) -> None:
    with raises_cause(message):
        infer(pictures, tmp_path, **options)
    assert not list(tmp_path.rglob("*_seg.*"))


def test_nothing_found_is_an_empty_label_map(pictures: Packed, tmp_path: Path, caplog) -> None:
    (tmp_path / "scans").mkdir()
    Image.fromarray(np.full((30, 40), 7, dtype=np.uint8)).save(tmp_path / "scans" / "flat.png")
    infer(pictures, tmp_path / "out", scans=tmp_path / "scans")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "flat_seg.png")), np.zeros((30, 40)))
    assert "flat.png: nothing found" in caplog.text


def test_the_unit_test_for_the_zoo(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.zoo)
    check_zoo_unit_test(packed.zoo, NAME)


def test_the_zip_runs_alone(volumes: Packed, configs: Path, tmp_path: Path) -> None:
    """Unpacked in an empty folder, by MONAI's own command, where nothing of the repository can be found."""
    with zipfile.ZipFile(volumes.archive) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert not any("__pycache__" in name or name.startswith(("/", "..")) for name in names)
    assert {Path(name).suffix for name in names} - {".py", ".yaml", ".json", ".md", ".txt", ".conf", ".css", ""} <= {
        ".pt", ".safetensors", ".html", ".js",
    }  # fmt: skip
    scans = shutil.copytree(volumes.scans, tmp_path / NAME / "data")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    command += ["--dataset_dir", "data", "--output_dir", "out", "--displayable_configs#text_prompt", "brain lesion"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    outcome = subprocess.run(command, cwd=tmp_path / NAME, env=environment, capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    scan = scans / "volume.nii.gz"
    expected = maps_of(volumes, configs, scan, ["brain lesion"])[0] >= 0.5
    assert np.array_equal(labels_of(tmp_path / NAME / "out", scan) == 1, expected)
    text = "".join(path.read_text() for path in (tmp_path / NAME).rglob("*.yaml"))
    assert "_target_: custom." not in text
    assert "bundle/configs" not in text


def test_every_module_of_the_bundle_is_complete(pictures: Packed) -> None:
    package = importlib.import_module(pictures.package)
    found = [each.name for each in pkgutil.walk_packages(package.__path__, f"{pictures.package}.")]
    assert len(found) > 100
    for name in found:
        importlib.import_module(name)


def test_maps_of_a_folder(pictures: Packed, tmp_path: Path, configs: Path) -> None:
    """localize.yaml in the bundle: the same localizer, report and maps."""
    quick = {"gate_scans": 0, "other_dirs": [str(pictures.scans)], "prompt": "left lung"}
    run_config(
        pictures.folder / "configs",
        "localize",
        dataset_dir=str(pictures.scans),
        output_dir=str(tmp_path / "out"),
        **quick,
    )
    (file,) = (tmp_path / "out").rglob("*picture_1*/*.png")
    scan = pictures.scans / "picture_1.png"
    found = np.asarray(Image.open(file)).T[..., None] / 255
    assert np.allclose(found, maps_of(pictures, configs, scan, ["left lung"])[0], atol=1 / 255)


def test_weights_of_ones_own(volumes: Packed) -> None:
    """They are in the bundle, without the names of scans; its localizer finds them by itself."""
    record = json.loads((volumes.folder / "models" / "self_taught.json").read_text())
    assert {"network", "sha256", "shots"} <= record.keys()
    assert not {"shot_ids", "fit"} & record.keys()
    component = yaml.safe_load((volumes.folder / "configs" / "localizers" / "packed.yaml").read_text())
    assert component["weights"]["path"] == "models/self_taught.safetensors"
    assert "models/self_taught.safetensors" in (volumes.folder / "docs" / "README.md").read_text()


def test_a_vocabulary_of_ones_own(configs: Path, tmp_path: Path, monkeypatch, raises_cause) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: {configs / 'localizers' / 'vocabulary.yaml'}\nconcepts: {{thing: {{steps: [body]}}}}\n")
    folder = pack(
        configs,
        tmp_path / "zoo",
        name="my_localization",
        package="packed_mine",
        prompt="thing",
        localizer_options=f"{{vocabulary: {mine}}}",
    )
    mine.unlink()
    monkeypatch.syspath_prepend(str(folder))
    scans = tmp_path / "scans"
    scans.mkdir()
    Image.fromarray(np.eye(20, dtype=np.uint8) * 200).save(scans / "a.png")
    for prompt in ("thing", "left lung"):
        output = {"output_dir": str(tmp_path / prompt), "displayable_configs#text_prompt": prompt}
        run_config(folder / "configs", "inference", "infer", dataset_dir=str(scans), device=CPU, **output)
        assert (tmp_path / prompt / "a_seg.png").is_file()
    assert "thing" in (folder / "docs" / "README.md").read_text()
    (tmp_path / "base.yaml").write_text("concepts: {thing: {steps: [body]}}")
    mine.write_text("extends: base.yaml")
    with raises_cause("may extend files of configs/localizers only"):
        pack(configs, tmp_path / "other", prompt="thing", localizer_options={"vocabulary": str(mine)})


def test_a_published_model(configs: Path, tmp_path: Path, caplog) -> None:
    """Nothing of it is packed; the README says where its weights are, and that nobody measured it."""
    folder = pack(configs, tmp_path, localizer="clipseg", localizer_options={"source": "CIDAS/none"}, package="clip")
    assert "was not tried" in caplog.text
    text = (folder / "docs" / "README.md").read_text()
    assert "Not part of the bundle" in text
    assert "Apache-2.0" in (folder / "configs" / "localizers" / "packed.yaml").read_text()
    assert "No figures were packed" in text
    assert [path.name for path in (folder / "models").iterdir()] == ["model.pt"]


def test_errors_come_before_anything_is_written(configs: Path, tmp_path: Path, raises_cause) -> None:
    for options, message in (
        ({"name": "text_guided_mim_segmentation"}, "ending in _localization"),
        ({"package": "custom"}, "a name of its own"),
        ({"prompt": "chair"}, "names nothing that this localizer knows"),
        ({"prompt": " "}, "is empty"),
        ({"threshold": 2}, "threshold must be"),
        ({"localizer": "none"}, "No component 'none'"),
        ({"localizer": "voxtell"}, "takes .3,.-dimensional scans"),
        ({"localizer_options": {"weights": "nowhere.safetensors"}}, "no use for them"),
        ({"localizer": "self_taught"}, "learned needs weights"),
    ):
        with raises_cause(message):
            pack(configs, tmp_path / "zoo", **options)
    assert list((tmp_path / "zoo").iterdir()) == []


def test_more_weights_hold_no_paths(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "self_taught.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    check_contents(tmp_path)
    save_file({"weight": torch.zeros(1)}, path, metadata={"origin": "/home/somebody/scans"})
    with pytest.raises(ValueError, match="the path /home/somebody"):
        check_contents(tmp_path)


def test_real_lungs(pictures: Packed, configs: Path, data_root: Path, tmp_path: Path) -> None:
    """On radiographs the bundle draws what the repository's localizer draws, and that is much of the lungs."""
    scans, dice = tmp_path / "scans", []
    scans.mkdir()
    files = sorted((data_root / "cxr_lungs" / "images").iterdir())[:6]
    for file in files:
        shutil.copy(file, scans)
    infer(pictures, tmp_path / "out", scans=scans)
    for file in files:
        found = labels_of(tmp_path / "out", file) == 1
        assert np.array_equal(found, maps_of(pictures, configs, file, ["lungs on x-ray"])[0] >= 0.5)
        mask = next((data_root / "cxr_lungs" / "masks").glob(f"{file.stem}.*"))
        truth = np.asarray(Image.open(mask)).T[..., None] > 0
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.mean(dice) > 0.75


def test_real_volumes(configs: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pack(configs, tmp_path / "zoo", package="packed_3d", spatial_dims=3, prompt="hippocampus", modality="MR")
    monkeypatch.syspath_prepend(str(folder))
    packed = Packed(tmp_path / "zoo", tmp_path / "scans", 3, "packed_3d", "hippocampus", {"name": "concept"})
    packed.scans.mkdir()
    files = sorted((data_root / "hippocampus3d" / "images").glob("*.nii*"))[:5]
    for file in files:
        shutil.copy(file, packed.scans)
    infer(packed, tmp_path / "out")
    dice = []
    for file in files:
        found = labels_of(tmp_path / "out", file) == 1
        assert np.array_equal(found, maps_of(packed, configs, file, ["hippocampus"])[0] >= 0.5)
        truth = np.asarray(nib.load(data_root / "hippocampus3d" / "labels" / file.name).dataobj) > 0
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.mean(dice) > 0.7


def test_the_figures_of_the_readme_are_those_that_were_measured(repository):
    told = repository / "custom" / "workflows" / "packing" / "templates" / "localization" / "performance.md"
    rows = [line.strip("| ").split(" | ") for line in told.read_text().splitlines() if line.count("|") > 5][2:]
    measured = (repository / "benchmarks" / "results" / "localization.md").read_text().splitlines()
    for _, prompt, scans, dice, of_disc, hit, disc_hit in rows:
        for asked, value, share in ((prompt, dice, hit), ("disc, equal area", of_disc, disc_hit)):
            row = next(line for line in measured if f"| {prompt} | {asked} | {scans} |" in line).split(" | ")
            assert row[8].startswith(value)
            assert round(100 * float(row[4].split()[0])) == int(share.removesuffix(" %"))
