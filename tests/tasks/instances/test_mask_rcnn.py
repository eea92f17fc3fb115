# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on an encoder: it learns, its axes are those of scans, masks are where they were taken from."""

from __future__ import annotations

import pytest
import torch

from custom.components import load_component
from custom.metrics.boxes import coco_figures
from custom.tasks.instances import MaskDetector
from custom.tasks.instances.mask_rcnn import paste_masks

pytest.importorskip("torchvision")

ANCHORS = {"base_shapes": [[8, 8], [12, 20]], "scales": [1, 2, 4, 8]}
SMALL = {"pyramid_channels": 16, "box_width": 32, "mask_widths": [16], "proposals": 20, "samples": 16}


def _encoder(configs, channels=1, dims=2):
    torch.manual_seed(0)
    name = "resnet18_narrow" if dims == 2 else "resnet10_narrow"
    return load_component(configs / "encoders", name, spatial_dims=dims, in_channels=channels).build()


def _scan(*objects: tuple[int, int, int, int], size=(64, 48), channels=1):
    """A dark picture with bright rectangles; those of class 1 are brighter and wide in y."""
    image = torch.rand(channels, *size, generator=torch.manual_seed(len(objects))) * 0.1
    masks = torch.zeros(len(objects), *size, dtype=torch.uint8)
    labels = torch.zeros(len(objects), dtype=torch.int64)
    for index, (x, y, right, bottom) in enumerate(objects):
        masks[index, x:right, y:bottom] = 1
        labels[index] = int(bottom - y > right - x)
        image[:, x:right, y:bottom] += 0.4 + 0.5 * labels[index]
    boxes = torch.tensor(objects, dtype=torch.float32).reshape(-1, 4)
    return image, {"boxes": boxes, "labels": labels, "masks": masks}


SCANS = [
    _scan((6, 8, 20, 16), (30, 20, 38, 40)),
    _scan((40, 30, 60, 42)),
    _scan((10, 4, 18, 26), (44, 6, 60, 14)),
    _scan(),
]  # fmt: skip


def _train(detector, steps):
    images, targets = zip(*SCANS, strict=True)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    detector.train()
    for _ in range(steps):
        losses = detector(images, targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return losses


def test_it_learns_four_scans_by_heart(configs):
    """Wide and high objects on pictures that are no squares: one swapped axis anywhere would leave no overlap.

    From five seeds every object is found; how closely (AP75) is luck after so few steps.
    """
    detector = MaskDetector(_encoder(configs), 2, ANCHORS, **SMALL)
    assert (detector.spatial_dims, detector.num_classes, detector.wants_masks) == (2, 2, True)
    assert detector.strides == [4, 8, 16, 32]
    _train(detector, 110)
    detector.eval()
    with torch.no_grad():
        found = detector([image for image, _ in SCANS])
    assert found[0]["masks"].shape[1:] == (64, 48)
    assert all((each["scores"].diff() <= 0).all() for each in found)
    truths = [target for _, target in SCANS]
    predictions = [{**each, "masks": each["masks"] >= 0.5} for each in found]
    for kind in ("boxes", "masks"):
        assert coco_figures(truths, predictions, ["low", "high"], kind)["ap50"] > 0.6, kind
    turned = [{**target, "boxes": target["boxes"][:, [1, 0, 3, 2]]} for target in truths]
    assert coco_figures(turned, predictions, ["low", "high"])["ap50"] < 0.2, "what swapped axes would give"


@pytest.mark.parametrize("scan", [_scan(), _scan((5, 7, 6, 8)), _scan((0, 0, 64, 48))], ids=["empty", "pixel", "whole"])
def test_awkward_targets_train(configs, scan):
    detector = MaskDetector(_encoder(configs), 2, ANCHORS, **SMALL).train()
    image, target = scan
    losses = detector([image, image], [target, target])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    gradient = detector.encoder.network.conv1.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0, "nothing is frozen"


def test_sizes_channels_and_statistics(configs):
    """Colour, pictures of several sizes in one batch, images normalised inside."""
    plain = MaskDetector(_encoder(configs, 3), 1, ANCHORS, **SMALL).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    torch.manual_seed(0)
    inside = MaskDetector(_encoder(configs, 3), 1, ANCHORS, **SMALL, mean=mean, std=std).eval()
    inside.load_state_dict(plain.state_dict())
    images = [torch.rand(3, 64, 64), torch.rand(3, 40, 70)]
    by_hand = [(image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] for image in images]
    with torch.no_grad():
        for first, second in zip(plain(by_hand), inside(images), strict=True):
            torch.testing.assert_close(first, second)
        assert plain(images)[1]["masks"].shape[1:] == (40, 70)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": {"base_shapes": [[8, 8]], "scales": [1, 2]}}, "one scale for each of the 4 levels"),
        ({"anchors": {"base_shapes": [[8, 8, 8]], "scales": [1, 2, 4, 8]}}, "shapes of 2 numbers"),
        ({"mean": [0.5, 0.5]}, "mean and std need 1 numbers"),
        ({"std": [0.0]}, "std positive"),
        ({"levels": [7]}, "levels must name"),
    ],
)
def test_arguments_that_do_not_fit(configs, changes, words):
    with pytest.raises(ValueError, match=words):
        MaskDetector(_encoder(configs), 1, **{"anchors": ANCHORS, **changes})


def test_volumes_and_boxes_without_masks_are_refused(configs):
    with pytest.raises(ValueError, match="Mask R-CNN is for pictures and slices"):
        MaskDetector(_encoder(configs, dims=3), 1, ANCHORS)
    detector = MaskDetector(_encoder(configs), 2, ANCHORS, **SMALL).train()
    image, target = SCANS[0]
    with pytest.raises(ValueError, match=r"Mask R-CNN learns from masks.*--detector retinanet"):
        detector([image], [{"boxes": target["boxes"], "labels": target["labels"]}])


def test_masks_are_pasted_where_training_took_them_from():
    """What torchvision's loss makes of a mask, put back, is the mask: also of a few pixels, also at the border."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

    boxes = torch.tensor([[3, 5, 6, 8], [0, 0, 9, 4], [20, 10, 40, 30], [30, 24, 32, 31]], dtype=torch.float32)
    masks = torch.zeros(4, 32, 40)
    for index, (x, y, right, bottom) in enumerate(boxes.int().tolist()):
        masks[index, y:bottom, x:right] = 1
    masks[2, 10:16, 20:28] = 0
    inside = project_masks_on_boxes(masks, boxes, torch.arange(4), 28)
    assert torch.equal((paste_masks(inside, boxes, (32, 40)) >= 0.5).float(), masks)
    torchvisions = (paste_masks_in_image(inside[:, None], boxes, (32, 40))[:, 0] >= 0.5).float()
    assert torchvisions[0].sum() > 1.5 * masks[0].sum(), "why torchvision's own way is not taken"


def test_pasting_nothing():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
