# SPDX-License-Identifier: Apache-2.0
"""The best validation is kept, brought back by a resumed run, and ends the training when nothing improves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from custom.handlers import ResumeTraining, TrainingCheckpoint
from custom.tasks import BestModel, FineTuning, few_labelled


class Course:
    """A training whose weight is the epoch and whose validations score as told."""

    def __init__(self, folder: Path, scores: list[float], lower_is_better: bool = False, resume: bool = False) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        self.model = BestModel(folder / "model.pt", self.network, lower_is_better)
        self.trainer, self.evaluator = Engine(self._step), Engine(lambda engine, batch: None)
        self.evaluator.state.key_metric_name = "score"
        self.scores = scores
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._score)
        self.model.attach(self.evaluator)
        objects = {"model": self.model}
        if resume:
            ResumeTraining(folder / "checkpoints", objects).attach(self.trainer)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validate)
        TrainingCheckpoint(folder / "checkpoints", objects).attach(self.trainer)
        self.max_epochs = len(scores)

    def fit(self, patience: int | None = None, max_epochs: int | None = None) -> dict:
        self.trainer.state.max_epochs = max_epochs or self.max_epochs
        run = self.trainer.run
        self.trainer.run = lambda: run([0], max_epochs=max_epochs or self.max_epochs)  # MONAI's trainers know both
        return FineTuning(self.model, self.trainer, self.evaluator, patience).fit()

    def _step(self, engine: Engine, batch: int) -> None:
        nn.init.constant_(self.network.weight, float(engine.state.epoch))

    def _validate(self, engine: Engine) -> None:
        self.evaluator.state.epoch = engine.state.epoch - 1
        self.evaluator.run([0], max_epochs=engine.state.epoch)

    def _score(self, engine: Engine) -> None:
        engine.state.metrics[engine.state.key_metric_name] = self.scores[engine.state.epoch - 1]


def test_the_best_epoch_comes_back(tmp_path: Path) -> None:
    course = Course(tmp_path, [0.2, 0.7, 0.7, 0.1])
    assert course.fit() == {"epochs": 4, "best_epoch": 2, "best_val_score": 0.7}
    assert course.network.weight.item() == 2


def test_the_lowest_loss_comes_back(tmp_path: Path) -> None:
    course = Course(tmp_path, [0.2, 0.7, 0.1, 0.3], lower_is_better=True)
    assert course.fit()["best_epoch"] == 3


def test_training_stops_when_nothing_improves(tmp_path: Path) -> None:
    course = Course(tmp_path, [0.2, 0.7, 0.6, 0.7, 0.9])
    assert course.fit(patience=2) == {"epochs": 4, "best_epoch": 2, "best_val_score": 0.7}


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    Course(tmp_path, [0.2, 0.7, 0.6, 0.7, 0.9]).fit(patience=2)
    again = Course(tmp_path, [0.2, 0.7, 0.6, 0.7, 0.9], resume=True)
    assert again.fit(patience=2) == {"epochs": 4, "best_epoch": 2, "best_val_score": 0.7}


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    scores = [0.2, 0.9, 0.6, 0.7]
    Course(tmp_path, scores).fit(max_epochs=3)
    (tmp_path / "model.pt").unlink()
    resumed = Course(tmp_path, scores, resume=True)
    assert resumed.fit() == {"epochs": 4, "best_epoch": 2, "best_val_score": 0.9}
    assert resumed.network.weight.item() == 2


def test_scores_of_another_metric_are_not_compared(tmp_path: Path) -> None:
    Course(tmp_path, [0.9, 0.8]).fit()
    resumed = Course(tmp_path, [0.1, 0.1, 0.3, 0.2], resume=True)
    resumed.evaluator.state.key_metric_name = "other"
    assert resumed.fit()["best_epoch"] == 3


def test_a_fresh_run_never_takes_an_earlier_runs_weights(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((1, 1), 99.0)}, tmp_path / "model.pt")
    course = Course(tmp_path, [0.1])
    course.fit()
    assert course.network.weight.item() == 1


def test_an_earlier_runs_weights_stay_until_there_are_better_ones(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((1, 1), 99.0)}, tmp_path / "model.pt")
    course = Course(tmp_path, [0.1])
    seen: list[float] = []
    course.trainer.add_event_handler(
        Events.STARTED | Events.ITERATION_COMPLETED,
        lambda _: seen.append(torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item()),
    )
    course.fit()
    assert seen == [99, 99]
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 1


def test_an_earlier_runs_weights_are_not_chosen_where_nothing_was_validated(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((1, 1), 99.0)}, tmp_path / "model.pt")
    course = Course(tmp_path, [0.1])
    course.trainer.remove_event_handler(course._validate, Events.EPOCH_COMPLETED)
    with pytest.raises(ValueError, match="No validation took place"):
        course.fit()
    assert (tmp_path / "model.pt").is_file()


@pytest.mark.parametrize("undefined", [math.inf, -math.inf])
def test_infinity_is_no_score(tmp_path: Path, undefined: float) -> None:
    for lower_is_better in (False, True):
        course = Course(tmp_path, [undefined, 0.2, undefined], lower_is_better)
        assert course.fit() == {"epochs": 3, "best_epoch": 2, "best_val_score": 0.2}


def test_an_undefined_score_is_no_best_one(tmp_path: Path) -> None:
    course = Course(tmp_path, [math.nan, 0.2, math.nan, 0.1])
    assert course.fit() == {"epochs": 4, "best_epoch": 2, "best_val_score": 0.2}


def test_a_key_metric_that_is_never_defined_is_no_number(tmp_path: Path) -> None:
    assert Course(tmp_path, [float("nan")] * 2).fit() == {"epochs": 2, "best_epoch": 1, "best_val_score": None}


def test_patience_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patience must be at least 1"):
        Course(tmp_path, [0.1]).fit(patience=0)


def test_few_labelled_scans_are_nested() -> None:
    items = [{"scan_id": f"s{index}"} for index in range(10)]
    three, five = ({item["scan_id"] for item in few_labelled(items, count, seed=1)} for count in (3, 5))
    assert len(three) == 3
    assert three < five
    assert few_labelled(list(reversed(items)), 3, seed=1) == few_labelled(items, 3, seed=1)
    assert few_labelled(items, 3, seed=2) != few_labelled(items, 3, seed=1)
    assert len(few_labelled(items, None)) == 10
    with pytest.raises(ValueError, match="between 1 and 10"):
        few_labelled(items, 11)
