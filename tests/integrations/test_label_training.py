# SPDX-License-Identifier: Apache-2.0
"""Training of the packed bundle as MONAI Label 0.8.5 calls it (`monailabel/tasks/train/bundle.py`), in this process."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from datasets.phantoms import ensure_phantoms
from tests.bundle_runs import run_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with codes of their own, and the bundle of a network that has hardly seen them."""
    root = tmp_path_factory.mktemp("label")
    counts = {"train": 4, "val": 1, "test": 1}
    scans = ensure_phantoms("brain_mri", 3, root=root, size=32, counts=counts)
    quick = {"max_epochs": 1, "batch_size": 2, "resamples": 10, "segmenter_options": {"channels": 4}, "device": CPU}
    quick |= {"backbone": "resnet10_narrow", "image_size": [16, 16, 16], "classes": {2: "matter", 4: "lesion"}}
    run_config(configs, "train", dataset_dir=str(scans), output_dir=str(root / "trained"), **quick)
    names = {"name": "labelled_segmentation", "package": "labelled_segmentation_package", "modality": "MR"}
    run_config(configs, "pack", model=str(root / "trained" / "model.pt"), output_dir=str(root / "zoo"), **names)
    return root


@pytest.fixture
def bundle(work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The bundle with the weights that it was packed with; somewhere else is the working folder, as for a server."""
    folder = work / "zoo" / "models" / "labelled_segmentation"
    for name in ("model.pt", "model.json"):
        kept = folder.parent / name
        if not kept.exists():
            kept.write_bytes((folder / "models" / name).read_bytes())
        (folder / "models" / name).write_bytes(kept.read_bytes())
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def annotated(work: Path, folder: Path, count: int) -> list[dict[str, str]]:
    """What a datastore lists: scans, and label maps that an annotator drew with the codes of the bundle's metadata."""
    scans = next(path.parent for path in work.rglob("manifest.csv"))
    with open(scans / "manifest.csv") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for row in rows[:count]:
        stored: Any = nib.load(scans / row["mask"])
        codes = np.asarray(stored.dataobj)
        drawn = np.where(codes == 2, 1, np.where(codes == 4, 2, 0)).astype(np.uint8)
        label = folder / Path(row["file"]).name
        nib.save(nib.Nifti1Image(drawn, stored.affine), label)
        found.append({"image": str(scans / row["file"]), "label": str(label)})
    return found


def train_as_monai_label(
    bundle: Path, train: list[dict[str, str]], validate: list[dict[str, str]] | None, epochs: int, **more: Any
) -> None:
    """Exactly its overrides: the handlers as the config has them, with a loader of the served weights in front."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    loader = {"_target_": "CheckpointLoader", "load_path": str(bundle / "models" / "model.pt")}
    loader |= {"load_dict": {"model": "$@network"}, "strict": False}
    overrides = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": train,
        "device": "cpu",
        "train#handlers": [loader, *parser.get("train#handlers")],
    }
    if validate is not None:
        overrides["validate#dataset#data"] = validate
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "train.yaml"),
        **overrides,
        **more,
    )


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("validate", [[], None], ids=["nothing left for val", "val of the bundle's own"])
def test_one_label_is_enough(work: Path, bundle: Path, tmp_path: Path, validate: list[dict[str, str]] | None) -> None:
    """The labels name their codes 1 and 2, those of the metadata; new weights are where inference looks for them."""
    weights = bundle / "models" / "model.pt"
    before = digest(weights)
    data = annotated(work, tmp_path, 1)
    train_as_monai_label(bundle, data, validate, epochs=3, learning_rate=0.01)
    assert digest(weights) != before
    record = json.loads((bundle / "models" / "model.json").read_text())
    assert record["sha256"] == digest(weights)
    assert record["facts"]["classes"] == {"1": "matter", "2": "lesion"}
    assert record["facts"]["num_scans"] == {"train": 1, "val": 0, "test": 0}
    assert list(tmp_path.iterdir()) == [Path(data[0]["label"])]  # nothing in the server's working folder
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, weights_only=True))


def test_training_goes_on_from_the_served_weights(work: Path, bundle: Path, tmp_path: Path) -> None:
    """They are the first to be validated; where no epoch is better, they are kept."""
    weights = bundle / "models" / "model.pt"
    before = torch.load(weights, weights_only=True)
    data = annotated(work, tmp_path, 3)
    train_as_monai_label(bundle, data[:2], data[2:], epochs=1, learning_rate=0.0, key_score="mean_iou")
    record = json.loads((bundle / "models" / "model.json").read_text())
    assert record["facts"]["num_scans"] == {"train": 2, "val": 1, "test": 0}
    after = torch.load(weights, weights_only=True)
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in learnt)


def test_a_failed_training_leaves_the_served_weights(work: Path, bundle: Path, tmp_path: Path, raises_cause) -> None:
    weights = bundle / "models" / "model.pt"
    before = digest(weights)
    data = annotated(work, tmp_path, 1)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.uint8), np.eye(4)), data[0]["label"])
    with raises_cause("is not the image's"):
        train_as_monai_label(bundle, data, [], epochs=1)
    with raises_cause("no scans to read"):
        train_as_monai_label(bundle, [], [], epochs=1)
    assert digest(weights) == before


def test_plain_training_gives_a_model_as_well(work: Path, bundle: Path, tmp_path: Path) -> None:
    """As the zoo does it: from the command line, a data set with splits; evaluated and in use where it lies."""
    scans = next(path.parent for path in work.rglob("manifest.csv"))
    before = digest(bundle / "models" / "model.pt")
    quick = {"dataset_dir": str(scans), "classes": {2: "matter", 4: "lesion"}, "resamples": 10, "device": CPU}
    quick["seed"] = 1  # with that of the bundle's own training the same weights come out
    run_config(bundle / "configs", "train", output_dir=str(tmp_path / "run"), max_epochs=1, batch_size=2, **quick)
    assert digest(bundle / "models" / "model.pt") == digest(tmp_path / "run" / "model.pt") != before
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["num_scans"] == 1
