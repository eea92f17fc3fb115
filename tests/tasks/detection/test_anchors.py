# SPDX-License-Identifier: Apache-2.0
"""Anchors that fit the training boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandLambdad

from custom.tasks.detection import ShapedAnchors, fit_anchors, fit_anchors_to_dataset, size_limits
from datasets import ScanDataset


def boxes_of(sides: list[list[float]]) -> np.ndarray:
    """Boxes of these sides, somewhere."""
    start = np.random.default_rng(0).uniform(0, 20, (len(sides), len(sides[0])))
    return np.concatenate([start, start + sides], axis=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_clusters_are_found(dims: int) -> None:
    generator = np.random.default_rng(1)
    shapes = np.array([[12.0, 6, 9], [7, 13, 5]])[:, :dims]
    sides = np.concatenate([shape * generator.uniform(0.97, 1.03, (40, dims)) for shape in shapes])
    found = fit_anchors(boxes_of(sides.tolist()), [4, 8], count=2)
    assert found["scales"] == [1.0, 2.0]
    own = np.concatenate([np.array(found["base_shapes"]), 2 * np.array(found["base_shapes"])])
    for shape in shapes:
        assert np.abs(own / shape - 1).max(axis=1).min() < 0.05
    assert found["mean_best_iou"] > 0.9
    assert found["recall"] == 1.0


def test_levels_take_their_share() -> None:
    """One shape on three levels fits three sizes."""
    found = fit_anchors(boxes_of([[10, 10], [20, 20], [40, 40]]), [4, 8, 16], count=1)
    assert found["base_shapes"][0] == pytest.approx([10, 10], rel=0.01)
    assert found["mean_best_iou"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("sides", [[[1.0, 1.0]], [[6.0, 4.0]] * 5, [[1.0, 1, 1]] * 3, [[0.5, 30.0]]])
def test_few_and_equal_boxes(sides: list[list[float]]) -> None:
    found = fit_anchors(boxes_of(sides), [4, 8], count=3)
    assert len(found["base_shapes"]) == 1
    assert found["mean_best_iou"] == pytest.approx(1.0, abs=1e-2)
    anchors = ShapedAnchors(found["scales"], found["base_shapes"])
    for cell, scale in zip(anchors.cell_anchors, found["scales"], strict=True):
        dims = cell.shape[1] // 2
        assert (cell[0, dims:] - cell[0, :dims]).tolist() == pytest.approx(
            [scale * side for side in found["base_shapes"][0]], abs=1e-3
        )


def test_the_seed_decides() -> None:
    boxes = boxes_of(np.random.default_rng(2).uniform(2, 40, (60, 2)).tolist())
    assert fit_anchors(boxes, [4, 8], seed=3) == fit_anchors(boxes, [4, 8], seed=3)


def test_no_box_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one training box"):
        fit_anchors(np.zeros((0, 4)), [4])


@pytest.mark.parametrize("cache", [True, False])
def test_a_training_set_is_read_before_its_random_transforms(cache: bool) -> None:
    def away(value: torch.Tensor) -> torch.Tensor:
        return value[:0]

    items = [{"boxes": torch.tensor([[0.0, 0, side, side]])} for side in (4, 8, 16)] + [{"boxes": torch.zeros(0, 4)}]
    items = [{**item, "scan_boxes": item["boxes"]} for item in items]
    random = RandLambdad(["boxes", "scan_boxes"], func=away, prob=1.0)
    dataset = ScanDataset(items, Compose([random]), cache=cache, progress=False)
    assert dataset[0]["boxes"].shape == (0, 4)
    assert fit_anchors_to_dataset(dataset, [4, 8, 16], count=1)["base_shapes"][0] == pytest.approx([4, 4], rel=0.01)
    limits = size_limits(dataset)
    assert limits["small"][1] == limits["medium"][0]
    assert 16 < limits["small"][1] < limits["medium"][1] < 256
