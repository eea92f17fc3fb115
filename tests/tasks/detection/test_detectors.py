# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid, RetinaNet, the choice of boxes, and the glue to MONAI's engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.data import MetaTensor
from monai.data.box_utils import box_iou
from torch import Tensor

from custom.components import load_component
from custom.networks import Encoder
from custom.tasks.detection import (
    BoxScore,
    DetectionLoss,
    DetectionPrepareBatch,
    FeaturePyramid,
    RetinaDetector,
    build_detector,
    keep_apart,
    pyramid_strides,
)
from custom.tasks.detection.retinanet import SureMatcher
from custom.tasks.detection.selection import QuickBoxSelector

NAMES = {2: "resnet18_narrow", 3: "resnet10_narrow"}


@pytest.fixture
def build(configs: Path):
    """Make an encoder of strides 4 to 32 (2D) or 2 to 16 (3D)."""

    def make(spatial_dims: int) -> Encoder:
        torch.manual_seed(0)
        spec = load_component(configs / "encoders", NAMES[spatial_dims], spatial_dims=spatial_dims, in_channels=1)
        return spec.build()

    return make


EVERY = 1e-3  # a score that every untrained anchor exceeds


def anchors_of(dims: int, levels: int) -> dict:
    return {"base_shapes": [[8.0] * dims, [5.0, 10, 7][:dims]], "scales": [2.0**level for level in range(levels)]}


def target(boxes: list[list[float]], labels: list[int], dims: int) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 2 * dims), "labels": torch.tensor(labels, dtype=torch.int64)}


def test_pyramid(build) -> None:
    encoder = build(2)
    body = FeaturePyramid(encoder, out_channels=16)
    assert body.strides == [4, 8, 16, 32]
    body = FeaturePyramid(encoder, levels=[-3, 0], out_channels=16, extra_level=True)
    assert body.strides == [4, 8, 16]
    maps = body(torch.zeros(2, 1, 64, 32))
    assert [list(each.shape) for each in maps] == [[2, 16, 16, 8], [2, 16, 8, 4], [2, 16, 4, 2]]
    assert FeaturePyramid(build(3)).strides == [4, 8, 16]  # the finest has stride 2
    with pytest.raises(ValueError, match="4 maps"):
        FeaturePyramid(encoder, levels=[4])
    with pytest.raises(ValueError, match="4 maps"):
        FeaturePyramid(encoder, levels=[])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
def test_losses(build, dims: int, box_loss: str) -> None:
    network = RetinaDetector(build(dims), 2, anchors_of(dims, 2), levels=[1, 2], pyramid_channels=8, box_loss=box_loss)
    images = [torch.rand(1, *[32] * dims) for _ in range(3)]
    one_voxel = [[5.0] * dims + [6.0] * dims]
    targets = [
        target([[8.0] * dims + [18.0] * dims], [1], dims),
        target([], [], dims),
        target(one_voxel, [0], dims),
    ]
    losses = network(images, targets)
    assert set(losses) == {"classification", "box_regression"}
    DetectionLoss()(losses).backward()
    assert network.encoder.network.conv1.weight.grad.abs().sum() > 0
    losses = network(images[:2], [target([], [], dims)] * 2)
    assert losses["box_regression"] == 0
    DetectionLoss()(losses).backward()


@pytest.mark.parametrize("dims", [2, 3])
def test_predictions(build, dims: int) -> None:
    network = RetinaDetector(
        build(dims), 2, anchors_of(dims, 2), levels=[1, 2], pyramid_channels=8, score_threshold=EVERY
    )
    network.eval()
    images = [torch.rand(1, *[32] * dims), torch.rand(1, *[20] * dims)]
    with torch.no_grad():
        found = network(images)
    for image, each in zip(images, found, strict=True):
        assert each["boxes"].shape == (len(each["scores"]), 2 * dims)
        assert each["boxes"].min() >= 0
        assert (each["boxes"][:, dims:] <= torch.tensor(image.shape[1:])).all()
        assert (each["scores"].diff() <= 0).all()
        assert set(each["labels"].tolist()) <= {0, 1}
    assert network.spatial_dims == dims
    assert network.strides == ([8, 16] if dims == 2 else [4, 8])


def test_an_image_alone_and_in_a_batch(build) -> None:
    network = RetinaDetector(build(2), 1, anchors_of(2, 1), levels=[1], pyramid_channels=8, score_threshold=EVERY)
    network.eval()
    images = [torch.rand(1, 32, 32), torch.rand(1, 32, 32)]
    with torch.no_grad():
        together, alone = network(images)[1], network(images[1:])[0]
    assert torch.allclose(together["boxes"], alone["boxes"], atol=1e-4)


def test_windows(build) -> None:
    """Larger scans are predicted in windows; one that fits the window is not cut up."""
    options = {"levels": [0], "pyramid_channels": 8, "score_threshold": EVERY, "window": [32, 32]}
    network = RetinaDetector(build(2), 1, anchors_of(2, 1), **options).eval()
    with torch.no_grad():
        image = torch.rand(1, 32, 32)
        whole = network([image])[0]
        network.window = None
        assert torch.equal(whole["boxes"], network([image])[0]["boxes"])
        network.window = [32, 32]
        found = network([torch.rand(1, 70, 50)])[0]
    assert len(found["boxes"])
    assert (found["boxes"][:, 2:] <= torch.tensor([70, 50])).all()
    with pytest.raises(ValueError, match="divisible by the coarsest stride 8"):
        RetinaDetector(build(2), 1, anchors_of(2, 2), levels=[0, 1], window=[32, 36])


def test_arguments_that_do_not_fit(build) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        RetinaDetector(build(2), 1, anchors_of(2, 1), levels=[0], pyramid_channels=20)
    with pytest.raises(ValueError, match="box_loss"):
        RetinaDetector(build(2), 1, anchors_of(2, 1), levels=[0], box_loss="l2")
    with pytest.raises(ValueError, match="one scale for each of the 4 levels"):
        RetinaDetector(build(2), 1, anchors_of(2, 2))
    with pytest.raises(ValueError, match="shapes of 2 numbers"):
        RetinaDetector(build(2), 1, anchors_of(3, 4))


def test_the_shipped_file(build, configs: Path) -> None:
    detector = load_component(configs / "detectors", "retinanet", "{levels: [1, 2], extra_level: true}")
    encoder = build(2)
    strides = pyramid_strides(detector, encoder)
    assert strides == [8, 16, 32]
    network = build_detector(detector, encoder, ["a", "b"], anchors_of(2, 3), patch_size=[64, 64])
    assert isinstance(network, RetinaDetector)
    assert network.num_classes == 2
    assert network.window == [64, 64]
    with pytest.raises(ValueError, match=r"retinanet.yaml has no option 'depth'"):
        load_component(configs / "detectors", "retinanet", "{depth: 3}")
    wrong = partial(RetinaDetector, depth=3)
    with pytest.raises(ValueError, match="--detector_options"):
        build_detector(wrong, encoder, ["a"], anchors_of(2, 4))


def test_a_box_between_anchors_is_matched() -> None:
    """Eight anchors overlap it equally: by rounding, MONAI's matcher takes none of them."""
    centres = torch.stack(torch.meshgrid(*[torch.tensor([2.0, 6, 10])] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    anchors = torch.cat([centres - 5, centres + 5], dim=1)
    for shift in torch.linspace(0, 0.9, 7):
        box = torch.tensor([[4.0, 4, 4, 4, 4, 4]]) + shift + torch.tensor([-5.0, -5, -5, 5, 5, 5])
        overlaps, matches = SureMatcher(4, box_iou, center_in_gt=False)(box, anchors, [27], 1)
        assert overlaps.shape == (1, 27)
        assert (matches == 0).any()
        expected = ATSSMatcher(4, box_iou, center_in_gt=False)(box, anchors, [27], 1)[1]
        if (expected == 0).any():
            assert torch.equal(matches, expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_are_chosen_as_by_monai(dims: int, generator: torch.Generator) -> None:
    boxes = torch.rand(2, 150, 2 * dims, generator=generator) * 40
    boxes[..., dims:] = boxes[..., :dims] + 1 + boxes[..., dims:] / 3
    logits = torch.randn(2, 150, 3, generator=generator)
    options = {"score_thresh": 0.05, "topk_candidates_per_level": 100, "nms_thresh": 0.3, "detections_per_img": 40}
    size = [40] * dims
    expected = BoxSelector(**options).select_boxes_per_image(list(boxes), list(logits), size)
    found = QuickBoxSelector(**options).select_boxes_per_image(list(boxes), list(logits), size)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    nothing = QuickBoxSelector(**options).select_boxes_per_image(list(boxes), [each - 50 for each in logits], size)
    assert [len(each) for each in nothing] == [0, 0, 0]


def test_batches_of_scans() -> None:
    scans = [
        {"image": MetaTensor(torch.rand(1, 4, 4)), "boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()},
        {
            "image": torch.rand(1, 4, 6),
            "boxes": torch.tensor([[0.0, 0, 2, 2]]),
            "labels": torch.tensor([1]),
            "box_index": torch.tensor([1]),
            "masks": torch.stack([torch.zeros(4, 6), torch.ones(4, 6)]).to(torch.uint8),
        },
    ]
    batch = keep_apart([scans[:1], scans[1]])
    assert len(batch) == 2
    images, targets, arguments, options = DetectionPrepareBatch()(batch, "cpu")
    assert not isinstance(images[0], MetaTensor)
    assert [list(image.shape) for image in images] == [[1, 4, 4], [1, 4, 6]]
    assert arguments == (targets,)
    assert options == {}
    assert targets[0]["boxes"].shape == (0, 4)
    assert targets[1]["masks"].shape == (1, 4, 6)
    assert targets[1]["masks"].all()


@pytest.mark.parametrize(("name", "expected"), [("ap50", 1.0), ("ap75", 0.0), ("ap", 0.2)])
def test_key_scores(name: str, expected: float) -> None:
    """One box of an overlap of 0.6 counts at 0.5, 0.55 (and 0.6, were it exact) and not above."""
    score = BoxScore(name, ["a"])
    truth = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0])}
    found = {"boxes": torch.tensor([[0.0, 0, 10, 5.9]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    score.update(([found], [truth]))
    assert score.compute() == pytest.approx(expected)
    score.reset()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    score.update(([{**empty, "scores": torch.zeros(0)}], [empty]))
    assert score.compute() == 0.0
    with pytest.raises(ValueError, match="key_score"):
        BoxScore("dice", ["a"])


@pytest.mark.parametrize("dims", [2, 3])
def test_four_scans_are_learnt_by_heart(build, dims: int) -> None:
    """Two kinds of bright boxes on noise. Whether one false find scores above a true one is luck after so few steps."""
    generator = np.random.default_rng(0)
    side = 32 if dims == 2 else 24
    images, targets = [], []
    for index in range(4):
        values = generator.normal(0, 0.1, (1, *[side] * dims)).astype(np.float32)
        start = generator.integers(3, side - 13, dims)
        stop = start + ([10] * dims if index % 2 else [10, 6, 10][:dims])
        values[(0, *(slice(*edge) for edge in zip(start, stop, strict=True)))] += 1 + index % 2
        images.append(torch.from_numpy(values))
        targets.append(target([[*map(float, start), *map(float, stop)]], [index % 2], dims))
    anchors = {"base_shapes": [[10.0] * dims, [10.0, 6, 10][:dims]], "scales": [1.0]}
    level = 0 if dims == 2 else 1  # of stride 4
    network = RetinaDetector(build(dims), 2, anchors, levels=[level], pyramid_channels=16, box_loss="smooth_l1")
    rate, steps = 3e-3 if dims == 2 else 5e-3, 100
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        DetectionLoss()(network(images, targets)).backward()
        optimizer.step()
        schedule.step()
    score = BoxScore("ap50", ["a", "b"])
    with torch.no_grad():
        score.update((network.eval()(images), targets))
    assert score.compute() > 0.5
