# SPDX-License-Identifier: Apache-2.0
"""Pretraining, tasks, evaluation, inference and packed bundles show a network the same voxels, whatever was chosen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, ScaleIntensityRangePercentilesd

from custom.components import load_component
from custom.networks import save_encoder
from custom.preprocessing import FitIntoBoxd, PrepareScand, Preprocessing
from custom.regions import body_voxels
from custom.tasks.record import write_record
from custom.workflows import TrainedModel
from custom.workflows.packing.defaults import with_defaults
from custom.workflows.packing.trained import inference_defaults, packed_contract
from datasets import LoadScand

WINDOW = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -900, "a_max": 300, "b_min": 0.0, "b_max": 1.0,
          "clip": True}  # fmt: skip
SCHEMES = {"percentile": {"scheme": "percentile", "lower": 2}, "window": WINDOW, "zscore": "{scheme: zscore}"}
COMBINATIONS = [
    # channels and whole scans or patches change with the others: each value meets each
    (scheme, spacing, crop, 3 if crop == (spacing is None) else 1, (number // 3) % 2 == 1)
    for number, (spacing, crop, scheme) in enumerate(itertools.product((None, [2, 2, 3]), (True, False), SCHEMES))
]
CLASSES = {5: "lump"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CT of unequal voxels: a body in air, a lump in the body."""
    folder, random = tmp_path_factory.mktemp("scan"), np.random.default_rng(0)
    values = random.normal(-1000, 10, (36, 30, 14))
    values[8:30, 6:24, 2:12] = random.normal(40, 60, (22, 18, 10))
    codes = np.zeros(values.shape, dtype=np.uint8)
    codes[12:18, 10:14, 4:9] = 5
    affine = np.diag([-1.0, 1.5, 4.0, 1.0])
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(codes, affine), folder / "mask.nii.gz")
    return {"image": str(folder / "scan.nii.gz"), "label": str(folder / "mask.nii.gz"), "scan_id": "scan"}


def part(configs: Path, name: str, **settings: Any) -> ConfigParser:
    """A config without the engines, which need not be resolved here."""
    config = ConfigParser.load_config_file(str(configs / f"{name}.yaml"))
    config["train"] = {key: value for key, value in config["train"].items() if key == "deterministic_transforms"}
    for key in ("validate", "test", "new", "initialize"):
        config.pop(key, None)
    parser = ConfigParser(config)
    if "label_classes" in config:
        parser.update({"label_classes#root": None, "label_classes#items": []})
    parser.update({"spatial_dims": 3, "prompts": [], "datalist": None, **settings})
    return parser


def shown(parser: ConfigParser, item: dict[str, str], chain: str = "train#deterministic_transforms") -> dict[str, Any]:
    transforms = parser.get_parsed_content(chain)
    return dict(Compose(transforms)(item) if isinstance(transforms, list) else transforms(item))


def trained(folder: Path, parser: ConfigParser, channels: int) -> Path:
    """What a run of train.yaml leaves, without the training."""
    torch.save({}, folder / "model.pt")
    settings = {"spatial_dims": 3, "window_overlap": 0.5, "classes": {"5": "lump"}, "other_codes": "error",
                "dataset_dir": "data", "segmenter": "pyramid", "segmenter_options": {}}  # fmt: skip
    contract = parser.get_parsed_content("contract")
    assert contract.channels == channels
    content = {"task": "segmentation", "config": "train", "settings": settings, "decisions": {}}
    write_record(folder / "model.pt", {**content, "preprocessing": contract.record()})
    return folder / "model.pt"


def packed(configs: Path, model: Path, **changes: Any) -> ConfigParser:
    """inference.yaml as it is in the bundle."""
    template = configs.parents[1] / "custom/workflows/packing/templates/segmentation/inference.yaml"
    settings = json.loads(model.with_suffix(".json").read_text())["settings"]
    text = with_defaults(template.read_text(), inference_defaults(settings, packed_contract(model)))
    (model.parent / "models").mkdir(exist_ok=True)
    for file in (model, model.with_suffix(".json")):
        (model.parent / "models" / file.name).write_bytes(file.read_bytes())
    parser = ConfigParser(yaml.safe_load(text))
    parser.update({"bundle_root": str(model.parent), **changes})
    return parser


@pytest.mark.parametrize(("scheme", "spacing", "crop", "channels", "patched"), COMBINATIONS)
def test_evaluation_inference_and_bundle_see_what_training_saw(
    configs: Path,
    tmp_path: Path,
    scan: dict[str, str],
    scheme: str,
    spacing: Any,
    crop: bool,
    channels: int,
    patched: bool,
) -> None:
    size = {"patch_size": [24, 16, 20]} if patched else {"image_size": [24, 16, 12]}
    chosen = {"intensity": SCHEMES[scheme], "spacing": spacing, "crop_to_body": crop, "channels": channels, **size}
    training = part(configs, "train", classes=CLASSES, **chosen)
    wanted = shown(training, scan)
    assert wanted["image"].shape[0] == channels
    assert wanted["image"].std() > 0.1
    assert wanted["label"].max() == 1
    model = trained(tmp_path, training, channels)
    again = shown(part(configs, "train", **TrainedModel(model, configs, {"dataset_dir": "elsewhere"}).settings), scan)
    served = shown(packed(configs, model), {"image": scan["image"]}, "preprocessing")
    for found in (again, served):
        assert torch.equal(found["image"].as_tensor(), wanted["image"].as_tensor())
        assert torch.equal(found["image"].affine, wanted["image"].affine)
    assert torch.equal(again["label"], wanted["label"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tasks_see_what_pretraining_saw(configs: Path, tmp_path: Path, scan: dict[str, str], scheme: str) -> None:
    chosen = {"intensity": SCHEMES[scheme], "spacing": 2, "air_threshold": 0.1, "image_size": [24, 16, 12]}
    pretraining = part(configs, "pretrain", **chosen)
    wanted = shown(pretraining, scan)["image"]
    spec = load_component(configs / "encoders", "resnet10_narrow", spatial_dims=3, in_channels=1)
    record = {"preprocessing": pretraining.get_parsed_content("contract").record()}
    encoder = save_encoder(tmp_path / "encoder.safetensors", spec.build(), spec, record)
    for task in ("classify", "train"):
        found = shown(part(configs, task, encoder=str(encoder), classes=CLASSES), {**scan})["image"]
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted)), task


def test_a_bundle_refuses_what_differs_from_its_model(configs: Path, tmp_path: Path, raises_cause: Any) -> None:
    training = part(configs, "train", classes=CLASSES, image_size=[24, 16, 12], intensity=WINDOW)
    model = trained(tmp_path, training, 1)
    with raises_cause(r"spacing: recorded null, given \[1.0, 1.0, 1.0\]"):
        packed(configs, model, spacing=[1, 1, 1]).get_parsed_content("preprocessing")
    with raises_cause(r"intensity: recorded window \(window \[-900, 300\]\), given percentile"):
        packed(configs, model, intensity={"scheme": "percentile"}).get_parsed_content("preprocessing")


def test_transforms_of_ones_own_are_followed_but_not_packed(
    configs: Path, tmp_path: Path, scan: dict[str, str], raises_cause: Any
) -> None:
    own = {"_target_": "AdjustContrastd", "keys": "image", "gamma": 0.5}
    training = part(configs, "train", classes=CLASSES, image_size=[24, 16, 12], intensity=own)
    wanted = shown(training, scan)["image"]
    model = trained(tmp_path, training, 1)
    with raises_cause("AdjustContrastd, which has no plain form"):
        shown(part(configs, "train", **TrainedModel(model, configs, {}).settings), scan)
    again = TrainedModel(model, configs, {"intensity": own})
    assert torch.equal(shown(part(configs, "train", **again.settings), scan)["image"], wanted)
    with pytest.raises(ValueError, match="AdjustContrastd, and a bundle runs without code that only a user has"):
        packed_contract(model)


@pytest.mark.parametrize("crop", [True, False])
def test_the_defaults_do_what_they_always_did(scan: dict[str, str], crop: bool) -> None:
    load = LoadScand("image", 3, label_keys="label")
    cut = CropForegroundd(["image", "label"], "image", body_voxels, margin=4, allow_smaller=True, start_coord_key=None,
                          end_coord_key=None)  # fmt: skip
    scale = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True)
    fit = FitIntoBoxd(["image", "label"], (24, 16, 12), ["area", "nearest-exact"])
    wanted = Compose([load, scale, *([cut] if crop else []), fit])(scan)
    contract = Preprocessing.of(image_size=[24, 16, 12], crop_to_body=crop)
    found = Compose([load, PrepareScand(["image", "label"], contract, ["area", "nearest-exact"])])(scan)
    for key in ("image", "label"):
        assert torch.equal(found[key], wanted[key])
        assert torch.equal(found[key].affine, wanted[key].affine)
    assert set(found) == set(wanted)


@pytest.mark.parametrize("intensity", ["none", "zscore", {"scheme": "window", "window": [-1024, 3000], "b_min": -1}])
def test_the_body_is_found_whatever_the_grey_levels_become(intensity: Any) -> None:
    """air_threshold is meant for grey levels from 0 to 1: at z-scores or HU it would cut the body, or nothing."""
    values = torch.full((1, 40, 40), -1000.0)
    values[:, 12:28, 14:26] = -100
    values[:, 18:22, 18:22] = 500
    sizes = {
        PrepareScand("image", Preprocessing.of(intensity=each))({"image": MetaTensor(values.clone())})["image"].shape
        for each in ("percentile", intensity)
    }
    assert sizes == {(1, 16 + 2 * 2 + 2 * 4, 12 + 2 * 2 + 2 * 4)}


def test_keys_that_are_missing() -> None:
    contract = Preprocessing.of(image_size=[8, 8])
    data = {"image": MetaTensor(torch.rand(1, 9, 9)), "scan_id": "a"}
    assert set(PrepareScand(["image", "label"], contract, allow_missing_keys=True)(data)) == {"image", "scan_id"}
    with pytest.raises(KeyError, match="label"):
        PrepareScand(["image", "label"], contract)(data)
