# SPDX-License-Identifier: Apache-2.0
"""However much air lies around a body, the same is found in it; a crop in the chest is no body in air."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom.components import load_component
from custom.localizers.operators import OPERATORS, Scan
from custom.localizers.operators.field import field_of_body, whole_field
from tests.localizers.test_operators import chest, dice, ellipsoid

AIR = -1000.0


def padded(values: np.ndarray, factor: float, level: float, noise: float = 0.0) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Surround the slices of a scan with air, and say where they are then."""
    widths = [(round(side * (factor - 1) / 2),) * 2 if axis < 2 else (0, 0) for axis, side in enumerate(values.shape)]
    place = tuple(slice(low, low + side) for (low, _), side in zip(widths, values.shape, strict=True))
    large = np.random.default_rng(1).normal(
        level, noise, [s + sum(w) for s, w in zip(values.shape, widths, strict=True)]
    )
    large[place] = values
    return large.astype(np.float32), place


@pytest.fixture(scope="module")
def concept(configs):
    return load_component(configs / "localizers", "concept")


def found_in(concept, values: np.ndarray, prompt: str) -> np.ndarray:
    return concept.localize(torch.from_numpy(values)[None], [prompt])[0].numpy() > 0.5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("factor", "level", "noise"), [(1.3, AIR, 10), (2, AIR, 10), (4, AIR, 0), (2, -3024, 0)])
def test_lungs_in_a_large_field_of_view(concept, dims: int, factor: float, level: float, noise: float) -> None:
    values, lungs, _ = chest(dims)
    for prompt, hounsfield in (("lung", True), ("lung on ct", False)):
        if not hounsfield and level < AIR:
            continue  # a picture shows no padding below air
        large, place = padded(values, factor, level, noise)
        large, small = (each if hounsfield else np.clip((each + 1024) / 5, 0, 255) for each in (large, values))
        found, before = found_in(concept, large, prompt), found_in(concept, small, prompt)
        assert found.sum() == found[place].sum(), "nothing outside the body"
        assert dice(found[place], before) > 0.95
        assert dice(found[place], lungs[0] | lungs[1]) > 0.9


def test_nodules_are_found_as_without_the_air(concept) -> None:
    values, _, ball = chest(2)
    large, place = padded(values, 4, AIR, 10)
    found, before = found_in(concept, large, "lung nodule"), found_in(concept, values, "lung nodule")
    assert found.sum() == found[place].sum()
    assert dice(found[place], before) > 0.8
    assert found[place][ball].mean() > 0.5


def test_a_table_arms_and_a_round_field_of_view(concept) -> None:
    values, lungs, _ = chest(2)
    large, place = padded(values, 3, AIR, 10)
    large[:, 190:194] = 100.0  # a table from edge to edge
    large[40:70, 100:130][ellipsoid((30, 30), (15, 15), (12, 12))] = 40  # an arm
    large[~ellipsoid(large.shape, np.array(large.shape) / 2, np.array(large.shape) / 2)] = -2000
    found = found_in(concept, large, "lung")
    assert found.sum() == found[place].sum()
    assert dice(found[place], lungs[0] | lungs[1]) > 0.9


def test_a_body_without_lungs_has_none(concept) -> None:
    values = np.full((96, 96), AIR, dtype=np.float32)
    values[ellipsoid(values.shape, (48, 48), (14, 10))] = 40
    assert not found_in(concept, values, "lung").any()


@pytest.mark.parametrize("hounsfield", [True, False])
def test_a_nodule_in_a_crop_of_the_lung_is_no_body(hounsfield: bool) -> None:
    values = np.random.default_rng(0).normal(-860, 30, (64, 64)).astype(np.float32)
    values[ellipsoid(values.shape, (34, 30), (9, 9))] = 30
    values = values if hounsfield else np.clip((values + 1000) / 5, 0, 255)
    assert field_of_body(values, "ct") == (slice(None),) * 2
    assert (OPERATORS["lungs"](Scan(values, "ct", "right")) > 0.5).mean() > 0.9


def test_brains_are_found_as_without_the_air(concept) -> None:
    values = np.random.default_rng(0).normal(3, 1, (96, 96))
    values[ellipsoid(values.shape, (48, 48), (44, 40))] = 150
    values[ellipsoid(values.shape, (48, 48), (39, 35))] = 25
    values[ellipsoid(values.shape, (48, 48), (35, 31))] = 90
    large, place = padded(np.maximum(values, 0).astype(np.float32), 3, 3, 1)
    found, before = found_in(concept, large, "brain"), found_in(concept, values.astype(np.float32), "brain")
    assert before.mean() > 0.2
    assert found.sum() == found[place].sum()
    assert dice(found[place], before) > 0.95
    box = field_of_body(large, "mri")
    assert np.prod([part.stop - part.start for part in box]) < 0.5 * large.size


def test_what_lies_around_is_air_in_every_map() -> None:
    box = (slice(2, 5), slice(1, 4))
    found = np.zeros((3, 3), dtype=np.float32)
    found[1, 1] = 1
    assert whole_field(found, box, (8, 8)).sum() == 1
    assert whole_field(1 - found, box, (8, 8)).sum() == 63, "what a region is not"
