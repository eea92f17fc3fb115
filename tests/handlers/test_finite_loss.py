# SPDX-License-Identifier: Apache-2.0
"""A training ends at the first loss that is no number, before anything is written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn
from torch.utils.data import DataLoader

from custom.handlers import FiniteLoss, ScanLosses, TrainingCheckpoint
from custom.handlers.checkpoint import checkpoints
from custom.handlers.finite_loss import _Loss, scans_of


@pytest.fixture(autouse=True)
def quiet():
    """Ignite logs what its handlers raise."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


class Course:
    """Two scans a batch; the network scales, the loss is the mean of the outputs; weights before each epoch's end."""

    def __init__(self, folder: Path, values: list[float], rate: float = 0.0) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.network.weight)
        scans = [
            {"image": torch.full((1,), float(value)), "label": torch.zeros(1), "scan_id": f"scan_{index}.png"}
            for index, value in enumerate(values)
        ]
        checkpoint = TrainingCheckpoint(folder, {"network": self.network})
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=DataLoader(scans, batch_size=2),
            network=self.network,
            optimizer=torch.optim.SGD(self.network.parameters(), lr=rate),
            loss_function=lambda pred, label: (pred - label).mean(),
            inferer=SimpleInferer(),
            train_handlers=[FiniteLoss(self.network), checkpoint],
            decollate=False,
        )
        self.scans, self.folder = scans, folder


def test_the_scans_of_the_first_bad_batch_are_named(tmp_path: Path) -> None:
    course = Course(tmp_path, [1, 2, 3, torch.nan, torch.inf, 4])
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1, iteration 2, on .*scan_2.png, scan_3.png"):
        course.trainer.run()
    assert course.network.weight.item() == 1
    assert checkpoints(tmp_path) == []


def test_what_was_written_before_stays(tmp_path: Path) -> None:
    course = Course(tmp_path, [1, 2, 3, 4])

    def spoil(_: Any) -> None:
        course.scans[2]["image"].fill_(torch.inf)

    course.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), spoil)
    with pytest.raises(FloatingPointError, match=r"loss is inf in epoch 2.*The step before it was on .*scan_0.png"):
        course.trainer.run()
    ((epoch, file),) = checkpoints(tmp_path)
    assert epoch == 1
    assert torch.load(file, weights_only=True)["network"]["weight"].item() == 1


def test_a_last_step_that_spoils_the_weights_is_found(tmp_path: Path) -> None:
    course = Course(tmp_path, [0, 0, 1e20, 1e20], rate=1e30)  # finite losses, but not the last gradient times the rate
    with pytest.raises(FloatingPointError, match=r"weight is not finite after epoch 1.*scan_2.png, scan_3.png"):
        course.trainer.run()
    assert checkpoints(tmp_path) == []


class Copied:
    """An event of a GPU that is reached when it is told."""

    def __init__(self) -> None:
        self.reached = False

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.reached = True


def test_a_gpu_is_not_waited_for_before_the_epoch_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Copied] = []

    def on_its_way(loss: torch.Tensor) -> tuple[torch.Tensor, Copied]:
        events.append(Copied())
        return loss.clone(), events[-1]

    monkeypatch.setattr("custom.handlers.finite_loss._on_its_way", on_its_way)
    course = Course(tmp_path, [1, 2, 3, torch.nan, 5, 6])
    with pytest.raises(FloatingPointError, match=r"epoch 1, iteration 2, on .*scan_2.png, scan_3.png"):
        course.trainer.run()
    assert [event.reached for event in events] == [True, True, False]  # found at the end of the epoch, in order
    assert checkpoints(tmp_path) == []


def evaluator(values: list[float], batch_size: int, handlers: list[Any]) -> SupervisedEvaluator:
    scans = [
        {"image": torch.full((1,), float(value)), "label": torch.zeros(1), "scan_id": f"v{index}"}
        for index, value in enumerate(values)
    ]
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(scans, batch_size=batch_size),
        network=network,
        inferer=SimpleInferer(),
        val_handlers=handlers,
        decollate=False,
    )


def squared(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (pred - label).square().mean()


def test_the_validation_scan_whose_loss_is_no_number_is_named() -> None:
    checked = evaluator([1, 2, torch.nan, 4], 4, [ScanLosses(squared), FiniteLoss()])
    with pytest.raises(FloatingPointError, match=r"validation loss is nan in .*, on the scan v2\."):
        checked.run()


def test_losses_of_scans_are_those_of_batches_of_one() -> None:
    found: list[float] = []
    checked = evaluator([1, 2, 3, 4, 5], 2, [ScanLosses(squared)])
    checked.add_event_handler(Events.ITERATION_COMPLETED, lambda _: found.extend(checked.state.output["loss"].tolist()))
    checked.run()
    assert found == [1, 4, 9, 16, 25]


def test_a_loss_for_all_names_all() -> None:
    assert _Loss(torch.tensor(torch.nan), None, "", ["a", "b"]).bad_scans() == ["a", "b"]
    assert _Loss(torch.tensor([1, torch.nan]), None, "", ["a", "b"]).bad_scans() == ["b"]


def test_batches_know_their_scans_in_several_ways() -> None:
    assert scans_of({"scan_id": ["a", "b"]}) == ["a", "b"]
    assert scans_of([{"scan_id": "a"}, {"scan_id": "b"}]) == ["a", "b"]
    assert scans_of({"image": torch.zeros(1, 1)}) == []
    assert scans_of((torch.zeros(1), torch.zeros(1))) == []
