# SPDX-License-Identifier: Apache-2.0
"""The loss on hidden cells against a slow reference, and its treatment of constant cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from custom.losses import HiddenCellLoss, MIMTarget, denormalize, from_cells, to_cells

CASES = [((12, 8), (4, 4), 1), ((12, 8), (4, 2), 3), ((4, 6, 8), (2, 3, 4), 1), ((4, 4, 4), (2, 2, 2), 2)]


def slow_loss(prediction: np.ndarray, image: np.ndarray, visible: np.ndarray, cell: tuple, normalize: bool) -> float:
    errors = []
    for index in product(*(range(size) for size in visible.shape)):
        if visible[index]:
            continue
        box = tuple(slice(i * size, (i + 1) * size) for i, size in zip(index[1:], cell, strict=True))
        wanted = image[(index[0], slice(None), *box)]
        if normalize:
            wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
        errors.append(np.mean((prediction[(index[0], slice(None), *box)] - wanted) ** 2))
    return float(np.mean(errors))


def case(spatial: tuple, cell: tuple, channels: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(batch, channels, *spatial, generator=generator)
    prediction = torch.randn(batch, channels, *spatial, generator=generator)
    grid = [size // edge for size, edge in zip(spatial, cell, strict=True)]
    return prediction, image, torch.rand(batch, *grid, generator=generator) < 0.4


@pytest.mark.parametrize(("spatial", "cell", "channels"), CASES)
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_a_slow_loop(spatial: tuple, cell: tuple, channels: int, normalize: bool) -> None:
    prediction, image, visible = case(spatial, cell, channels)
    loss = HiddenCellLoss(cell, normalize=normalize)(prediction, MIMTarget(image, visible))
    expected = slow_loss(prediction.double().numpy(), image.double().numpy(), visible.numpy(), cell, normalize)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    with_channel = HiddenCellLoss(cell, normalize=normalize)(prediction, MIMTarget(image, visible[:, None]))
    assert torch.equal(loss, with_channel)


@pytest.mark.parametrize(("spatial", "cell", "channels"), CASES)
def test_cells_and_back(spatial: tuple, cell: tuple, channels: int) -> None:
    _, image, visible = case(spatial, cell, channels)
    cells = to_cells(image, cell)
    assert cells.shape == (3, visible[0].numel(), int(np.prod(cell)) * channels)
    assert torch.equal(from_cells(cells, spatial, cell), image)


def test_order_of_cells_and_values() -> None:
    image = torch.arange(32).reshape(1, 2, 4, 4)
    assert to_cells(image, 2)[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_visible_cells_do_not_count() -> None:
    prediction, image, visible = case((12, 8), (4, 4), 1)
    shown = visible.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    loss, target = HiddenCellLoss(4), MIMTarget(image, visible)
    assert torch.equal(loss(prediction, target), loss(prediction + 100 * shown, target))


def test_a_perfect_prediction_has_no_loss_and_denormalizes_to_the_image() -> None:
    _, image, visible = case((12, 8), (4, 4), 2)
    cells = to_cells(image, 4)
    normal = (cells - cells.mean(2, keepdim=True)) / (cells.var(2, keepdim=True) + 1e-6).sqrt()
    perfect = from_cells(normal, (12, 8), 4)
    assert float(HiddenCellLoss(4)(perfect, MIMTarget(image, visible))) < 1e-10
    assert torch.allclose(denormalize(perfect, image, 4), image, atol=1e-6)


@pytest.mark.parametrize(("spatial", "cell", "channels"), CASES)
def test_only_wanted_cells_count(spatial: tuple, cell: tuple, channels: int) -> None:
    prediction, image, visible = case(spatial, cell, channels)
    wanted = ~visible & (torch.rand(visible.shape, generator=torch.Generator().manual_seed(2)) < 0.5)
    loss = HiddenCellLoss(cell)
    assert torch.equal(
        loss(prediction, MIMTarget(image, visible, ~visible)), loss(prediction, MIMTarget(image, visible))
    )
    chosen = loss(prediction, MIMTarget(image, visible, wanted))
    # Hidden and unwanted cells count as little as visible ones.
    assert torch.equal(chosen, loss(prediction, MIMTarget(image, ~wanted)))
    assert torch.equal(chosen, loss(prediction, MIMTarget(image, visible[:, None], wanted[:, None])))
    assert not torch.equal(chosen, loss(prediction, MIMTarget(image, visible)))


def test_wanted_cells_of_another_grid() -> None:
    prediction, image, visible = case((12, 8), (4, 4), 1)
    with pytest.raises(ValueError, match=r"\(3, 3, 3\)"):
        HiddenCellLoss(4)(prediction, MIMTarget(image, visible, torch.ones(3, 3, 3, dtype=torch.bool)))


def test_constant_cells_are_left_out_even_where_wanted() -> None:
    image, hidden = air_and_tissue()
    prediction = torch.zeros_like(image)
    everything = HiddenCellLoss(4)(prediction, MIMTarget(image, hidden, torch.ones_like(hidden)))
    assert torch.equal(everything, HiddenCellLoss(4)(prediction, MIMTarget(image, hidden)))


def test_nothing_wanted_is_a_zero_that_keeps_the_graph() -> None:
    prediction, image, visible = case((12, 8), (4, 4), 1)
    prediction.requires_grad_()
    loss = HiddenCellLoss(4)(prediction, MIMTarget(image, visible, torch.zeros_like(visible)))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None


def air_and_tissue() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    image[..., 4:] *= 0.004
    return image, torch.zeros(1, 1, 2, dtype=torch.bool)


def test_noisy_air_is_left_out() -> None:
    image, hidden = air_and_tissue()
    prediction = torch.zeros_like(image)
    tissue = HiddenCellLoss(4)(prediction[..., :4], MIMTarget(image[..., :4], hidden[..., :1]))
    assert torch.equal(HiddenCellLoss(4)(prediction, MIMTarget(image, hidden)), tissue)
    kept = HiddenCellLoss(4, constant_cells="keep")(prediction, MIMTarget(image, hidden))
    # 15/16 for a cell of 16 values with unbiased variance 1: the noise weighs as much as the tissue.
    assert float(kept) == pytest.approx(15 / 16, abs=0.2)
    assert float(HiddenCellLoss(4, constant_threshold=0)(prediction, MIMTarget(image, hidden))) == float(kept)


@pytest.mark.parametrize("case_name", ["all visible", "all air"])
def test_nothing_to_predict_is_a_zero_that_keeps_the_graph(case_name: str) -> None:
    prediction = torch.randn(2, 1, 8, 8, requires_grad=True)
    image = torch.zeros(2, 1, 8, 8) if case_name == "all air" else torch.rand(2, 1, 8, 8)
    visible = torch.full((2, 2, 2), case_name == "all visible")
    loss = HiddenCellLoss(4)(prediction, MIMTarget(image, visible))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_bfloat16_predictions_are_compared_in_float32() -> None:
    prediction, image, visible = case((12, 8), (4, 4), 1)
    half = prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = HiddenCellLoss(4)(half, MIMTarget(image, visible))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, HiddenCellLoss(4)(half.float(), MIMTarget(image, visible)))


def test_counts_may_differ_between_samples() -> None:
    prediction, image, _ = case((8, 8), (4, 4), 1, batch=2)
    visible = torch.tensor([[[True, True], [True, False]], [[False, False], [False, False]]])
    loss = HiddenCellLoss(4)(prediction, MIMTarget(image, visible))
    alone = [HiddenCellLoss(4)(prediction[i : i + 1], MIMTarget(image[i : i + 1], visible[i : i + 1])) for i in (0, 1)]
    assert float(loss) == pytest.approx(float(alone[0] + 4 * alone[1]) / 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"constant_cells": "drop"}, "drop"), ({"eps": 0}, "eps"), ({"constant_threshold": -1}, "constant_threshold")],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HiddenCellLoss(4, **arguments)


@pytest.mark.parametrize(
    ("shape", "grid", "cell", "message"),
    [
        ((1, 1, 8, 8), (4, 4), 4, "16 cells a sample"),
        ((1, 1, 8, 6), (2, 2), 4, "multiples"),
        ((1, 1, 8, 8), (8, 8), 1, "at least two voxels"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple, grid: tuple, cell: int, message: str) -> None:
    target = MIMTarget(torch.rand(shape), torch.zeros(1, *grid, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        HiddenCellLoss(cell)(torch.rand(shape), target)


def test_prediction_of_another_shape() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        HiddenCellLoss(4)(torch.rand(1, 2, 8, 8), MIMTarget(torch.rand(1, 1, 8, 8), torch.zeros(1, 2, 2)))
