# SPDX-License-Identifier: Apache-2.0
"""Exported networks compute what the originals compute, on other batches and sizes too."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from torch import nn

from benchmarks.bundle import make_workflow
from custom.components import load_component
from custom.tasks.classification.classifier import Classifier
from custom.tasks.detection.retinanet import RetinaDetector
from custom.tasks.export import export_model
from custom.tasks.instances.mask_rcnn import MaskDetector
from custom.tasks.record import write_record
from custom.tasks.segmentation.networks import PyramidSegmenter, UNetSegmenter

ANCHORS = {"base_shapes": [[8, 8], [16, 12]], "scales": [1, 2, 4, 8]}


def encoder(name="resnet18_narrow", spatial_dims=2):
    torch.manual_seed(0)
    return load_component("bundle/configs/encoders", name, spatial_dims=spatial_dims, in_channels=1).build()


def classifier():
    own = encoder()
    return Classifier(own, 3, own.channels[-1])


def retina():
    return RetinaDetector(encoder(), 2, ANCHORS, pyramid_channels=16)


NETWORKS = {
    "classifier": classifier,
    "unet": lambda: UNetSegmenter(encoder(), 3),
    "pyramid": lambda: PyramidSegmenter(encoder(), 3, 16),
    "volumes": lambda: UNetSegmenter(encoder("resnet10_narrow", 3), 2, 8),
    "retinanet": retina,
}


def example(name):
    return torch.rand(1, 1, *(32,) * (3 if name == "volumes" else 2))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_torchscript_runs_without_the_project(name, tmp_path):
    network = NETWORKS[name]().eval()
    facts = export_model(network, example(name), tmp_path / "model.ts")
    assert set(facts["difference"]) == {"example", "batch", "size"}
    assert max(facts["difference"].values()) < 1e-4
    assert facts["fixed"] == []
    image = torch.rand(3, 1, *(64,) * (3 if name == "volumes" else 2))
    found = torch.jit.load(tmp_path / "model.ts")(image)
    if name == "retinanet":
        maps = network.detector.network(image)
        assert facts["outputs"] == [f"{key}_{level}" for key in maps for level in range(4)]
        found, wanted = found[0], next(iter(maps.values()))[0]
    else:
        assert facts["outputs"] == ["pred"]
        wanted = network(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pyramid"])
@torch.no_grad()
def test_onnx_runs_without_torch(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = NETWORKS[name]().eval()
    facts = export_model(network, example(name), tmp_path / "model.onnx", "onnx")
    assert max(facts["difference"].values()) < 1e-4
    assert facts["fixed"] == []
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(5, 1, 96, 64)
    (found,) = session.run(["pred"], {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(image), rtol=1e-4, atol=1e-4)


def test_the_network_is_left_as_it_was(tmp_path):
    network = classifier().train()
    before = copy.deepcopy(network.state_dict())
    export_model(network, example("classifier"), tmp_path / "model.ts")
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_mask_rcnn_is_refused(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match="Mask R-CNN cannot be exported"):
        export_model(MaskDetector(encoder(), 2, ANCHORS), example("unet"), tmp_path / "model.ts")


class Branches(nn.Module):
    """What a trace does not follow: another formula for larger images."""

    def forward(self, image):
        return image * 2 if image.shape[-1] > 40 else image


def test_an_export_that_computes_otherwise_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match=r"computes other values \(size\)"):
        export_model(Branches(), torch.rand(2, 1, 24, 32), tmp_path / "model.ts")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_survives_a_failed_export(tmp_path):
    (tmp_path / "model.ts").write_bytes(b"earlier")
    with pytest.raises(ValueError, match="computes other values"):
        export_model(Branches(), torch.rand(2, 1, 24, 32), tmp_path / "model.ts")
    assert (tmp_path / "model.ts").read_bytes() == b"earlier"


def test_unknown_formats_and_missing_packages_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="one of torchscript, onnx"):
        export_model(classifier(), example("unet"), tmp_path / "model.tf", "tensorflow")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", nn)
    monkeypatch.setitem(sys.modules, "onnxscript", nn)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        export_model(classifier(), example("unet"), tmp_path / "model.onnx", "onnx")


def spec():
    return load_component("bundle/configs/encoders", "resnet18_narrow", spatial_dims=2, in_channels=1).as_dict()


COMMON = {"spatial_dims": 2, "channels": 1, "image_size": [64, 32], "dataset_dir": "/gone", "crop_to_body": True}
TRAINED = {
    "train": {"classes": {"1": "lesion", "2": "body"}, "segmenter": "flexible_unet", "segmenter_options": {}},
    "classify": {"classes": ["a", "b", "c"]},
    "detect": {
        "classes": ["a", "b"],
        "anchors": ANCHORS,
        "detector": "retinanet",
        "detector_options": {"pyramid_channels": 16},
    },
}


def trained(config):
    if config == "train":
        return UNetSegmenter(encoder(), 3)
    return classifier() if config == "classify" else retina()


@pytest.mark.parametrize("config", TRAINED)
@torch.no_grad()
def test_the_command_rebuilds_a_trained_model_without_its_data(config, tmp_path):
    network = trained(config).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    settings = {**COMMON, **TRAINED[config], "recorded_encoder": spec()}
    write_record(
        tmp_path / "model.pt", {"task": "any", "config": config, "settings": settings, "decisions": {"threshold": 0.4}}
    )
    make_workflow("export", model=str(tmp_path / "model.pt")).run()
    image = torch.rand(1, 1, 64, 32)
    found = torch.jit.load(tmp_path / "model.ts")(image)
    if config == "detect":
        found, wanted = found[0], next(iter(network.detector.network(image).values()))[0]
    else:
        wanted = network(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    record = json.loads((tmp_path / "model.ts.json").read_text())
    assert record["image_size"] == [64, 32]
    assert record["model"]["decisions"] == {"threshold": 0.4}
    assert record["inputs"] == ["image"]
