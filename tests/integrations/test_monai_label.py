# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server with packed bundles answers over HTTP, before and after training, on real scans.

Needs two things beside this environment, and is skipped where one is missing: ``MWM_LABEL_VENV``, an environment made
by ``python3.11 -m integrations.monai_label.install --venv V``, and the real scans of ``MWM_DATA``. Takes two or three
minutes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from integrations.monai_label.client import LabelClient, LabelError, Part
from integrations.monai_label.serve import LabelServer
from integrations.monai_label.walk_through import LabelMap, refusals, walk
from tests.bundle_runs import run_config

pytestmark = pytest.mark.timeout(900)

NAMES = {
    "volumes": "mri_localization",
    "pictures": "xray_localization",
    "segmentation": "hippocampus_segmentation",
}
SPLITS = ("train",) * 4 + ("val", "test")


@dataclass(frozen=True)
class Served:
    """A running server and what it serves."""

    server: LabelServer
    client: LabelClient
    scans: list[str]
    labels: Path
    picture: str
    lungs: Path

    @property
    def weights(self) -> Path:
        return self.server.app / "model" / NAMES["segmentation"] / "models" / "model.pt"


def few_volumes(source: Path, folder: Path) -> list[str]:
    """Copy some hippocampus volumes with their label maps, and a list of them; return their names."""
    with open(source / "manifest.csv") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"][: len(SPLITS)]
    (folder / "labels").mkdir(parents=True)
    for row in rows:
        for key, place in (("file", folder), ("mask", folder / "labels")):
            shutil.copy(source / row[key], place / Path(row[key]).name)
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "mask", "split"])
        for row, split in zip(rows, SPLITS, strict=True):
            writer.writerow([Path(row["file"]).name, f"labels/{Path(row['mask']).name}", split])
    return [Path(row["file"]).name.removesuffix(".nii.gz") for row in rows]


def packed_bundles(configs: Path, scans: Path, root: Path) -> list[Path]:
    """A network that has hardly learnt the hippocampus, and the localizer for volumes and for pictures."""
    quick = {"max_epochs": 1, "batch_size": 2, "resamples": 10, "backbone": "resnet18_small", "learning_rate": 0.002}
    quick |= {
        "image_size": [32, 48, 32],
        "segmenter_options": {"channels": 8},
        "classes": {1: "anterior", 2: "posterior"},
    }
    model, device = root / "trained" / "model.pt", torch.device("cpu")
    run_config(configs, "train", dataset_dir=str(scans), output_dir=str(model.parent), device=device, **quick)
    zoo, modality = str(root / "zoo"), {"modality": "MR"}
    url = {"weights_url": "https://example.org/model.pt"}
    run_config(
        configs,
        "pack",
        model=str(model),
        output_dir=zoo,
        name=NAMES["segmentation"],
        package="hip_mim",
        **modality,
        **url,
    )
    shutil.copy(model, root / "zoo" / "models" / NAMES["segmentation"] / "models" / "model.pt")
    prompt = {"spatial_dims": 3, "prompt": "hippocampus", "package": "mri_localizer"}
    run_config(configs, "pack_localizer", output_dir=zoo, name=NAMES["volumes"], **prompt, **modality)
    prompt = {"spatial_dims": 2, "prompt": "lungs", "package": "xray_localizer", "modality": "X-ray"}
    run_config(configs, "pack_localizer", output_dir=zoo, name=NAMES["pictures"], **prompt)
    return [root / "zoo" / "models" / name for name in NAMES.values()]


@pytest.fixture(scope="module")
def served(configs: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    venv = os.environ.get("MWM_LABEL_VENV", "")
    if not Path(venv, "bin", "python").exists():
        pytest.skip(
            "MONAI Label: make its environment by `python3.11 -m integrations.monai_label.install --venv V` and set "
            "MWM_LABEL_VENV to V"
        )
    root = tmp_path_factory.mktemp("monai_label")
    names = few_volumes(data_root / "hippocampus3d", root / "labelled")
    bundles = packed_bundles(configs, root / "labelled", root)
    studies = root / "studies"
    studies.mkdir()
    for name in names:
        shutil.copy(root / "labelled" / f"{name}.nii.gz", studies)
    first: Any = nib.load(studies / f"{names[0]}.nii.gz")
    turn = np.array([[0, -0.6, 0.8, 3.5], [0.8, 0.48, 0.36, -2.25], [-0.6, 0.64, 0.48, 9], [0, 0, 0, 1]])
    shear = np.eye(4)
    shear[1, 2] = 0.3
    values = np.asarray(first.dataobj)
    for name, affine in (("oblique", turn @ np.diag([0.7, 1.3, 4, 1])), ("sheared", shear @ first.affine)):
        nib.save(nib.Nifti1Image(values, affine), studies / f"{name}.nii.gz")
    shutil.copy(data_root / "cxr_lungs" / "images" / "lung_001.jpg", studies)
    with LabelServer(venv, bundles, studies, root / "served") as server:
        masks = data_root / "cxr_lungs" / "masks" / "lung_001.png"
        yield Served(server, LabelClient(server.url), names, root / "labelled" / "labels", "lung_001", masks)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1))


def test_what_is_served(served: Served) -> None:
    """Labels from the metadata, the prompt as an option with its default; only the segmentation learns."""
    info = served.client.info()
    assert info["labels"] == ["anterior", "posterior", "region"]  # as 3D Slicer will number them
    assert set(info["models"]) == set(NAMES.values())
    assert info["models"][NAMES["segmentation"]]["labels"] == {"anterior": 1, "posterior": 2}
    localizer = info["models"][NAMES["volumes"]]
    assert (localizer["dimension"], localizer["config"]["text_prompt"]) == (3, "hippocampus")
    assert localizer["config"]["threshold"] == 0.5
    assert info["models"][NAMES["pictures"]]["dimension"] == 2
    assert set(info["trainers"]) == {NAMES["segmentation"]}
    assert set(served.scans) < set(served.client.images())


def test_two_prompts_give_two_regions_of_a_picture(served: Served) -> None:
    """Of the picture's size, and where a person outlined them; 1: right lung, 2: left lung."""
    truth = np.asarray(Image.open(served.lungs))
    for prompt, code in (("right lung", 1), ("left lung", 2)):
        answer = served.client.infer(NAMES["pictures"], served.picture, {"text_prompt": prompt}, kind=".png")
        region = np.asarray(Image.open(io.BytesIO(answer)))
        assert region.shape == truth.shape
        assert dice(region == 1, truth == code) > 0.6
        assert dice(region == 1, truth == 3 - code) < 0.2


def test_two_prompts_give_two_regions_of_a_volume(served: Served) -> None:
    truth = LabelMap.of((served.labels / f"{served.scans[0]}.nii.gz").read_bytes())
    default = LabelMap.of(served.client.infer(NAMES["volumes"], served.scans[0]))
    body = LabelMap.of(served.client.infer(NAMES["volumes"], served.scans[0], {"text_prompt": "body"}))
    strict = LabelMap.of(served.client.infer(NAMES["volumes"], served.scans[0], {"threshold": 0.9}))
    assert default.lies_on(truth)
    assert dice(default.voxels == 1, truth.voxels > 0) > 0.6
    assert body.sizes[1] > 2 * default.sizes[1]
    assert 0 < strict.sizes[1] < default.sizes[1]


@pytest.mark.parametrize("name", ["oblique", "sheared"])
@pytest.mark.parametrize("model", ["volumes", "segmentation"])
def test_label_maps_lie_on_the_scan(served: Served, name: str, model: str) -> None:
    scan = LabelMap.of(served.client.image(name))
    found = LabelMap.of(served.client.infer(NAMES[model], name))
    assert found.voxels.shape == scan.voxels.shape
    assert np.array_equal(found.affine, scan.affine)


def test_what_cannot_be_done_is_told(served: Served) -> None:
    told = {wrong: (error.status, error.detail) for wrong, error in refusals(served.client, served.scans[0]).items()}
    parts = {
        "unknown model": (404, "no model 'no_such_model'; known: hippocampus_segmentation"),
        "unknown image": (404, "no image 'no_such_image'"),
        "unknown prompt": (400, "'zebra crossing' names nothing that this localizer knows. Known: body"),
        "empty prompt": (400, "is empty"),
        "bad threshold": (400, "must be a probability"),
    }
    assert set(told) == set(parts)
    for wrong, (status, text) in parts.items():
        assert told[wrong][0] == status, told[wrong]
        assert text in told[wrong][1]
    for broken in (b"{oops", b"[1, 2]"):
        form = {"params": Part(broken)}
        with pytest.raises(LabelError, match="HTTP 400: params must be a JSON object"):
            served.client.call("POST", f"/infer/{NAMES['volumes']}", form, image=served.scans[0])
    with pytest.raises(LabelError, match=r"HTTP 400: .* would be an expression"):
        served.client.infer(NAMES["volumes"], served.scans[0], {"text_prompt": "$1 + 1"})
    with pytest.raises(LabelError, match=r"HTTP 400: .* would be an expression"):
        served.client.train(NAMES["segmentation"], {"max_epochs": "$1 + 1"})
    with pytest.raises(LabelError, match="no volume"):
        served.client.infer(NAMES["volumes"], served.picture)
    with pytest.raises(LabelError, match="HTTP 404: There is no model"):
        served.client.call("POST", "/train/nothing?run_sync=true", b"{}")


def test_training_before_anything_was_labelled(served: Served) -> None:
    with pytest.raises(LabelError, match="no scans to read"):
        served.client.train(NAMES["segmentation"], {"max_epochs": 1})


def test_the_annotators_labels_are_learnt(served: Served) -> None:
    """One command's walk; three labels are there already, so that it validates on one."""
    truth = served.labels / f"{served.scans[0]}.nii.gz"
    for name in served.scans[1:4]:
        served.client.save_label(name, served.labels / f"{name}.nii.gz")
    old = hashlib.sha256(served.weights.read_bytes()).hexdigest()
    walked = walk(served.client, served.scans[0], ["hippocampus", "body"], truth, epochs=5)
    assert walked.training["status"] == "DONE"
    assert hashlib.sha256(served.weights.read_bytes()).hexdigest() != old
    scan = LabelMap.of(truth.read_bytes())
    assert walked.before.lies_on(scan)
    assert walked.after.lies_on(scan)
    assert not np.array_equal(walked.before.voxels, walked.after.voxels)
    wanted = scan.voxels > 0
    assert dice(walked.after.voxels > 0, wanted) > dice(walked.before.voxels > 0, wanted)
    assert served.client.info()["datastore"]["completed"] == 4
