# SPDX-License-Identifier: Apache-2.0
"""Refiners by plain image analysis, on maps whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.components import component_names, load_component
from custom.localizers.base import Refiner
from custom.localizers.refiners.boxes import ExpandedBoxes
from custom.localizers.refiners.clusters import KMeans
from custom.localizers.refiners.components import LargestComponents
from custom.localizers.refiners.thresholds import Threshold

REFINERS = [Threshold(), KMeans(), LargestComponents(), ExpandedBoxes(threshold=0.5)]
PLAIN = ("threshold", "kmeans", "components", "boxes")


def refine(refiner, *maps):
    probabilities = torch.stack([torch.as_tensor(each, dtype=torch.float32) for each in maps])
    return refiner.refine(torch.zeros(1, *probabilities.shape[1:]), probabilities)


def blocks(shape, *boxes):
    """Zeros with blocks: (value, slice along each axis, ...)."""
    values = torch.zeros(shape)
    for value, *where in boxes:
        values[tuple(where)] = value
    return values


@pytest.mark.parametrize("refiner", REFINERS)
@pytest.mark.parametrize("shape", [(12, 9), (6, 5, 4)])
def test_what_all_refiners_promise(refiner, shape):
    assert isinstance(refiner, Refiner)
    json.dumps(refiner.describe())
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand((3, *shape), generator=generator)
    soft[1] = 0
    found = refiner.refine(torch.zeros(1, *shape), MetaTensor(soft))
    assert type(found) is torch.Tensor
    assert found.shape == soft.shape
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert found[0].any()
    assert not found[1].any()
    assert torch.equal(refiner.refine(torch.zeros(1, *shape), soft[2:]), found[2:])
    assert refiner.refine(torch.zeros(1, *shape), soft[:0]).shape == (0, *shape)
    with pytest.raises(ValueError, match="do not fit"):
        refiner.refine(torch.zeros(1, 3, 3), soft)


def test_threshold():
    assert refine(Threshold(0.3), torch.tensor([[0.2, 0.3], [0.31, 1.0]])).tolist() == [[[0, 0], [1, 1]]]
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="probability"):
            Threshold(wrong)


@pytest.mark.parametrize("shape", [(300, 40), (30, 20, 10)])
def test_kmeans_cuts_between_two_groups(shape):
    generator = torch.Generator().manual_seed(0)
    high = torch.rand(shape, generator=generator) < 0.2
    values = torch.where(high, 0.8, 0.3) + 0.1 * torch.rand(shape, generator=generator)
    found = refine(KMeans(), values)[0]
    assert torch.equal(found > 0, high)
    assert set(found.unique().tolist()) == {0.0, float(values.max())}
    faint = refine(KMeans(), values / 50)[0]
    torch.testing.assert_close(faint, found / 50)  # what is faint stays faint


def test_kmeans_equals_clusters_of_all_values_on_a_picture_of_its_own_grid():
    from sklearn.cluster import KMeans as Clusters

    axis = np.linspace(-1, 1, 256)
    values = np.exp(-4 * (axis[:, None] ** 2 + (axis[None] - 0.3) ** 2))
    clusters = Clusters(n_clusters=2, random_state=10, n_init=1).fit(values.reshape(-1, 1))
    expected = (clusters.labels_ == clusters.cluster_centers_.argmax()).reshape(values.shape)
    found = refine(KMeans(), values)[0].numpy() > 0
    assert (found != expected).mean() < 1e-3


def test_kmeans_of_a_constant_map_finds_nothing():
    assert not refine(KMeans(), torch.full((8, 8), 0.7)).any()


def test_the_largest_components_stay_with_their_values():
    s = slice
    values = blocks((10, 10), (0.5, s(0, 3), s(0, 3)), (0.9, s(5, 7), s(5, 7)), (1.0, s(9, 10), s(0, 2)))
    values[0, 1] = 0.6
    largest = blocks((10, 10), (0.5, s(0, 3), s(0, 3)))
    largest[0, 1] = 0.6
    assert torch.equal(refine(LargestComponents(), values)[0], largest)
    two = largest.clone()
    two[5:7, 5:7] = 0.9
    assert torch.equal(refine(LargestComponents(2), values)[0], two)
    assert torch.equal(refine(LargestComponents(5), values)[0], values)


def test_components_touch_across_corners_and_are_cut_at_the_threshold():
    s = slice
    values = blocks((6, 6), (1.0, s(0, 2), s(0, 2)), (1.0, s(2, 4), s(2, 4)), (1.0, s(5, 6), s(0, 5)))
    assert refine(LargestComponents(), values)[0].sum() == 8
    bridged = torch.full((6, 6), 0.2)
    bridged[0:2, 0:2], bridged[4, 4] = 0.8, 0.9
    assert refine(LargestComponents(), bridged)[0].count_nonzero() == 36
    assert refine(LargestComponents(threshold=0.5), bridged)[0].count_nonzero() == 4


def test_components_of_a_volume():
    s = slice
    values = blocks((6, 6, 6), (1.0, s(0, 2), s(0, 2), s(0, 2)), (1.0, s(4, 6), s(4, 6), s(5, 6)))
    assert torch.equal(refine(LargestComponents(), values)[0], blocks((6, 6, 6), (1.0, s(0, 2), s(0, 2), s(0, 2))))


def test_plain_boxes():
    s = slice
    values = torch.zeros(12, 10)
    values[2, 3], values[3, 4], values[4, 3], values[9:12, 8] = 0.4, 0.7, 0.5, 0.3
    expected = blocks((12, 10), (0.7, s(2, 5), s(3, 5)), (0.3, s(9, 12), s(8, 9)))
    assert torch.equal(refine(ExpandedBoxes(), values)[0], expected)


@pytest.mark.parametrize(
    ("factor", "box"),
    [(1.5, (slice(7, 13), slice(9, 15))), (2.0, (slice(6, 14), slice(8, 16))), (0.5, (slice(9, 11), slice(11, 13)))],
)
def test_boxes_are_scaled_about_their_centre(factor, box):
    values = blocks((20, 24), (1.0, slice(8, 12), slice(10, 14)))
    assert torch.equal(refine(ExpandedBoxes(factor), values)[0], blocks((20, 24), (1.0, *box)))


def test_boxes_are_cut_at_the_border_and_the_larger_value_stays_where_they_overlap():
    s = slice
    values = blocks((10, 10), (0.5, s(0, 2), s(0, 4)), (0.9, s(3, 5), s(0, 4)))
    expected = blocks((10, 10), (0.5, s(0, 3), s(0, 6)), (0.9, s(2, 6), s(0, 6)))
    assert torch.equal(refine(ExpandedBoxes(2.0), values)[0], expected)


def test_boxes_of_a_volume():
    s = slice
    values = blocks((8, 8, 8), (1.0, s(2, 6), s(4, 5), s(4, 6)))
    expected = blocks((8, 8, 8), (1.0, s(1, 7), s(3, 6), s(3, 7)))
    assert torch.equal(refine(ExpandedBoxes(1.5), values)[0], expected)


def test_wrong_settings_are_refused():
    for build in (lambda: LargestComponents(0), lambda: ExpandedBoxes(0), lambda: ExpandedBoxes(threshold=1)):
        with pytest.raises(ValueError, match=r"must be|probability"):
            build()


def test_shipped_configs(configs):
    folder = configs / "refiners"
    assert set(PLAIN) <= set(component_names(folder))
    shipped = [load_component(folder, name).describe() for name in PLAIN]
    assert shipped == [each.describe() for each in REFINERS]
