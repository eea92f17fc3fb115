# SPDX-License-Identifier: Apache-2.0
"""The plain scripts train the workflows' networks on the same scans; what they bring back lies where it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.transforms import Compose, SpatialPadd
from PIL import Image
from torch import nn

from benchmarks.plain import networks
from benchmarks.plain.__main__ import write_tables
from benchmarks.plain.segmentation import FittingResized
from benchmarks.plain.training import Batches, first_of, train
from custom.components import load_component
from custom.networks import parameter_groups
from custom.preprocessing import FitIntoBoxd
from custom.tasks import few_labelled
from custom.tasks.detection.retinanet import RetinaDetector
from custom.tasks.segmentation.networks import PyramidSegmenter

ANCHORS = {"base_shapes": [[8, 8], [12, 16]], "scales": [1, 2, 4, 8]}


def encoder(name, spatial_dims):
    return load_component("bundle/configs/encoders", name, spatial_dims=spatial_dims, in_channels=1).build()


def detector(name, spec):
    build = load_component("bundle/configs/detectors", name)
    return build(encoder=spec, num_classes=3, anchors=ANCHORS)


def pairs():
    return {
        "segmentation": (
            lambda: PyramidSegmenter(encoder("resnet10_narrow", 3), 3, 16),
            lambda: networks.VolumeSegmenter(3, 16),
        ),
        "detection": (
            lambda: detector("retinanet", encoder("resnet18_narrow", 2)),
            lambda: networks.retinanet(3, ANCHORS),
        ),
        "instances": (
            lambda: detector("mask_rcnn", encoder("resnet18_narrow", 2)),
            lambda: networks.mask_rcnn(3, ANCHORS, 96),
        ),
    }


@pytest.mark.parametrize("task", ["segmentation", "detection", "instances"])
def test_networks_start_from_the_workflows_weights(task):
    if task == "instances":
        pytest.importorskip("torchvision")
    built = []
    for build in pairs()[task]:
        torch.manual_seed(7)
        built.append([value for value in build().state_dict().values() if value.ndim])
    for ours, plain in zip(*built, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


@torch.no_grad()
def test_networks_compute_what_the_workflows_do():
    torch.manual_seed(7)
    ours = PyramidSegmenter(encoder("resnet10_narrow", 3), 3, 16).eval()
    torch.manual_seed(7)
    plain = networks.VolumeSegmenter(3, 16).eval()
    image = torch.rand(1, 1, 32, 48, 32)
    torch.testing.assert_close(ours(image), plain(image))


@torch.no_grad()
def test_detectors_find_what_the_workflows_do():
    image = torch.rand(1, 96, 96)
    found = []
    for build in pairs()["detection"]:
        torch.manual_seed(7)
        network = build().eval()
        is_ours = isinstance(network, RetinaDetector)
        (network.detector if is_ours else network).set_box_selector_parameters(0.0, 100, 0.3, 50)
        found.append(network([image] if is_ours else image[None])[0])
    ours, plain = found
    torch.testing.assert_close(ours["scores"].sort().values, plain["labels_scores"].sort().values)


def test_scans_lie_in_the_box_as_in_the_workflows():
    scan, modes = torch.rand(1, 35, 50, 17, generator=torch.Generator().manual_seed(0)), ("area", "nearest-exact")
    box, keys = [48, 64, 48], ("image", "label")
    plain = Compose([FittingResized(keys, box, modes), SpatialPadd(keys, box)])
    found, expected = (each({"image": scan, "label": scan.round()}) for each in (plain, FitIntoBoxd(keys, box, modes)))
    for key in keys:
        assert torch.equal(found[key].as_tensor(), expected[key])


def test_the_same_few_scans():
    items = [{"scan_id": f"scan{number}"} for number in range(20)]
    assert first_of(items, 7, seed=3) == few_labelled(items, 7, seed=3)
    assert first_of(items, None, seed=3) == items


def test_the_loop_goes_back_to_the_best_epoch():
    network = nn.Linear(1, 1)
    scores, seen = iter([0.2, 0.5, 0.1]), []

    def validate():
        seen.append(network.weight.detach().clone())
        return next(scores)

    batches = Batches([torch.ones(1)] * 5, lambda each: each, 2)
    fit = train(
        network,
        batches,
        lambda batch: network(torch.stack(batch)).square().mean(),
        validate,
        {"max_epochs": 3, "learning_rate": 0.1},
        weight_decay=0.0,
    )
    assert fit == {"best_epoch": 2, "best_val_score": 0.5}
    assert torch.equal(network.weight, seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(("count", "lengths"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2])])
def test_no_batch_of_one(count, lengths):
    batches = Batches(list(range(count)), lambda each: each, 4)
    assert len(batches) == len(lengths)
    assert [len(batch) for batch in batches] == lengths


def test_weight_decay_as_in_the_workflows():
    network = networks.Stages(2)
    decayed, free = parameter_groups(network, 0.05)
    assert {id(each) for each in decayed["params"]} == {
        id(each) for each in network.parameters() if sum(side > 1 for side in each.shape) > 1
    }
    assert len(free["params"]) > 0


@pytest.fixture
def pictures(tmp_path):
    """A grey body on black, 120 columns and 80 rows, with a bright object; as COCO."""
    pytest.importorskip("pycocotools")
    values = np.zeros((80, 120), dtype=np.uint8)
    values[20:70, 30:100] = 100
    values[40:52, 60:84] = 250
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "a.png")
    outline = [60, 40, 84, 40, 84, 52, 60, 52]
    annotation = {"id": 1, "image_id": 5, "category_id": 2, "bbox": [60, 40, 24, 12], "area": 288, "iscrowd": 0}
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 120, "height": 80}],
        "annotations": [{**annotation, "segmentation": [outline]}],
        "categories": [{"id": 1, "name": "other"}, {"id": 2, "name": "lesion"}],
    }
    (tmp_path / "coco_test.json").write_text(json.dumps(content))
    return tmp_path


def read(folder, side=64):
    from benchmarks.plain.pictures import read_picture, silent_coco

    coco = silent_coco(folder / "coco_test.json")
    return coco, read_picture(coco, 5, folder / "images" / "a.png", side)


def test_boxes_and_masks_lie_on_what_is_shown_and_come_back(pictures):
    coco, picture = read(pictures)
    left, top, right, bottom = picture.boxes[0].round().int().tolist()
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert picture.image[0][inside].min() > picture.image[0][~inside].max() * 0.9
    overlap = (inside & (picture.masks[0] > 0)).sum() / (inside | (picture.masks[0] > 0)).sum()
    assert overlap > 0.85
    np.testing.assert_allclose(picture.file_boxes(picture.boxes), [[60, 40, 24, 12]], atol=1e-4)
    (whole,) = picture.file_masks(picture.masks.float())
    truth = coco.annToMask(coco.dataset["annotations"][0])
    assert whole.shape == (80, 120)
    assert (whole & truth).sum() / (whole | truth).sum() > 0.85


def test_perfect_predictions_have_perfect_precision(pictures):
    from pycocotools import mask as coding

    from benchmarks.plain.pictures import average_precision

    coco, picture = read(pictures)
    found = {"image_id": 5, "category_id": 2, "score": 0.9}
    boxes = [{**found, "bbox": picture.file_boxes(picture.boxes)[0].tolist()}]
    masks = [
        {**found, "segmentation": coding.encode(np.asfortranarray(coco.annToMask(coco.dataset["annotations"][0])))}
    ]
    assert average_precision(coco, boxes)["ap"] == pytest.approx(1)
    assert average_precision(coco, masks, "segm")["ap"] == pytest.approx(1)
    assert average_precision(coco, [])["ap50"] == 0


def test_augmented_boxes_stay_on_their_objects(pictures):
    pytest.importorskip("torchvision")
    from benchmarks.plain.pictures import augment

    _, picture = read(pictures)
    torch.manual_seed(0)
    for _ in range(10):
        moved = augment(picture)
        rows, columns = torch.nonzero(moved.masks[0], as_tuple=True)
        left, top, right, bottom = moved.boxes[0].tolist()
        assert left - 1.5 <= columns.min() and columns.max() + 1 <= right + 1.5  # noqa: PT018
        assert top - 1.5 <= rows.min() and rows.max() + 1 <= bottom + 1.5  # noqa: PT018
        assert moved.image.shape == picture.image.shape


def test_predictions_of_volumes_come_back_to_the_files_voxels(tmp_path):
    import nibabel as nib

    from benchmarks.plain import segmentation

    truth = np.zeros((20, 31, 24), dtype=np.uint8)
    truth[5:15, 8:20, 6:18] = 1
    affine = np.diag([-1.0, 1, 1, 1])  # stored from right to left
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(truth.astype(np.float32) * 100 + 50, affine), tmp_path / "image.nii.gz")
    item = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}

    class Threshold(nn.Module):
        """Finds what is bright."""

        def forward(self, image):
            return torch.cat([0.5 - image, image - 0.5], dim=1) * 50

    fixed, _ = segmentation.transforms([32, 32, 32])
    assert segmentation.test(Threshold(), [fixed(dict(item))], [item], fixed, 2) > 0.95


def test_the_table_shows_both_and_the_difference(tmp_path):
    pairs = {"segmentation": [(seed, {"test": {"dice": 0.8}}, {"test": {"dice": 0.7}}) for seed in (0, 1)]}
    write_tables(pairs, tmp_path / "plain")
    table = (tmp_path / "plain.md").read_text()
    assert "| segmentation | hippocampus3d | Dice | 2 | 80.0 ± 0.0 | 70.0 ± 0.0 | 10.0 ± 0.0 |" in table
    assert (tmp_path / "plain.csv").read_text().splitlines()[1] == "segmentation,hippocampus3d,0,Dice,0.8,0.7"
