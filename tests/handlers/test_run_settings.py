# SPDX-License-Identifier: Apache-2.0
"""A resumed run: its own plan holds, and what it learns with is what was learnt with before, or it is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule

from custom.handlers import ResumeTraining, RunSeed, RunSettings, TrainingCheckpoint

BEFORE = {"masking": "random", "seed": 0, "image_size": (64, 64), "batch_size": 16, "max_epochs": 4, "dataset": "/a"}


@pytest.fixture(autouse=True)
def quiet():
    """Ignite logs what its handlers raise."""
    logging.getLogger("ignite.engine.engine.Engine").setLevel(logging.CRITICAL)


class Course:
    """Trains one weight with a learning rate that is noted at every iteration."""

    def __init__(self, folder: Path, batches: int, max_epochs: int, resume: bool = False, settings: Any = None,
                 keep: dict[str, Any] | None = None, lr: float = 1.0, decay: float = 0.0) -> None:  # fmt: skip
        self.weight = torch.nn.Parameter(torch.ones(1))
        network = torch.nn.ParameterList([self.weight])
        self.optimizer = torch.optim.AdamW([self.weight], lr=lr, weight_decay=decay)
        self.schedule = WarmupCosineSchedule(
            self.optimizer, warmup_steps=batches, t_total=batches * max_epochs, end_lr=0.0
        )
        self.rates: list[float] = []
        self.settings = settings
        objects = {"network": network, "optimizer": self.optimizer, "lr_scheduler": self.schedule, **(keep or {})}
        objects |= {} if settings is None else {"settings": settings}
        self.engine = Engine(self._step)
        if resume:
            ResumeTraining(folder, objects).attach(self.engine)
        self.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.schedule.step())
        TrainingCheckpoint(folder, objects).attach(self.engine)
        self.batches, self.max_epochs = batches, max_epochs

    def run(self, stop_after: int | None = None) -> list[float]:
        if stop_after:
            self.engine.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), lambda engine: engine.terminate())
        self.engine.run(range(self.batches), max_epochs=self.max_epochs)
        return self.rates

    def _step(self, engine: Engine, batch: int) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.zero_grad()
        self.weight.square().sum().backward()
        self.optimizer.step()


def test_with_the_same_plan_it_is_as_if_the_run_had_never_stopped(tmp_path: Path) -> None:
    whole = Course(tmp_path / "whole", 3, 4)
    whole.run()
    first = Course(tmp_path / "parts", 3, 4).run(stop_after=2)
    second = Course(tmp_path / "parts", 3, 4, resume=True)
    assert first + second.run() == whole.rates
    assert second.weight.item() == whole.weight.item()


def test_a_longer_run_of_longer_epochs_follows_its_own_plan(tmp_path: Path) -> None:
    Course(tmp_path, 2, 4).run()
    resumed, planned = Course(tmp_path, 5, 8, resume=True), Course(tmp_path / "planned", 5, 8)
    assert resumed.run() == planned.run()[4 * 5 :]  # four epochs are done, whatever their length was
    assert resumed.engine.state.iteration == 8 * 5
    assert sorted(resumed.rates, reverse=True) == resumed.rates


def test_rates_and_decay_are_those_of_the_new_run(tmp_path: Path) -> None:
    Course(tmp_path, 2, 2, lr=1.0, decay=0.1).run()
    resumed = Course(tmp_path, 2, 4, resume=True, lr=0.5, decay=0.2)
    resumed.run()
    assert max(resumed.rates) <= 0.5
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.2


def kept(folder: Path, settings: dict[str, Any], **options: Any) -> Course:
    """One epoch more with settings; the course."""
    resume = options.pop("resume", True)
    course = Course(folder, 1, settings["max_epochs"], resume, RunSettings(settings, **options))
    course.run()
    return course


@pytest.mark.parametrize(
    "change",
    [{"masking": "region"}, {"seed": 1}, {"image_size": [96, 96]}, {"prompts": ["x"], "masking": None}],
)
def test_what_changes_the_learning_is_refused_and_listed(tmp_path: Path, change: dict[str, Any]) -> None:
    kept(tmp_path, BEFORE, resume=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    name = next(name for name in change if name in BEFORE)
    with pytest.raises(ValueError, match=rf"checkpoint_epoch=4\.pt was .*{name} was .*, is .*--resume_changed true"):
        kept(tmp_path, {**BEFORE, "max_epochs": 6, **change})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_longer_and_in_other_batches_is_allowed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path, BEFORE, resume=False)
    course = kept(tmp_path, {**BEFORE, "max_epochs": 6, "batch_size": 4, "dataset": "/moved", "image_size": [64, 64]})
    assert "batch_size was 16, is 4; max_epochs was 4, is 6." in caplog.text
    assert course.engine.state.epoch == 6
    history = course.settings.as_info()["settings_history"]
    assert [(each["from_epoch"], each["settings"]["batch_size"]) for each in history] == [(1, 16), (5, 4)]


def test_changes_that_are_asked_for_hold_and_are_kept(tmp_path: Path) -> None:
    kept(tmp_path, BEFORE, resume=False)
    assert kept(tmp_path, BEFORE).settings.as_info() == {}
    kept(tmp_path, {**BEFORE, "max_epochs": 5, "masking": "region"}, may_change=True)
    course = kept(tmp_path, {**BEFORE, "max_epochs": 6, "masking": "region"})
    history = course.settings.as_info()["settings_history"]
    told = [(each["from_epoch"], each["settings"]["masking"], each["settings"]["max_epochs"]) for each in history]
    assert told == [(1, "random", 4), (5, "region", 6)]


def test_an_older_checkpoint_is_resumed_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Course(tmp_path, 1, 2, keep={"seed": RunSeed(0)}).run()
    course = Course(tmp_path, 1, 4, True, RunSettings({**BEFORE, "masking": "region"}), {"seed": RunSeed(0)})
    course.run()
    assert course.engine.state.epoch == 4
    assert "before settings were kept in checkpoints: its seed can be compared" in caplog.text
    with pytest.raises(ValueError, match="seed was 0, is 7"):
        Course(tmp_path, 1, 5, True, RunSettings({**BEFORE, "seed": 7}), {"seed": RunSeed(7)}).run()


def test_the_new_seed_holds_where_it_may(tmp_path: Path) -> None:
    Course(tmp_path, 1, 2, settings=RunSettings(BEFORE), keep={"seed": RunSeed(0)}).run()
    seed = RunSeed(7)
    Course(tmp_path, 1, 3, True, RunSettings({**BEFORE, "seed": 7}, may_change=True), {"seed": seed}).run()
    assert seed.value == 7
