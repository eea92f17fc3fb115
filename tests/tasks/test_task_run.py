# SPDX-License-Identifier: Apache-2.0
"""The frame of all tasks: what is written when, and what a trained model takes along."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from custom.networks import file_hash
from custom.tasks import BestModel, Evaluation, Prediction, TaskRun
from custom.tasks.record import read_record, record_path
from custom.tasks.task_run import best_median_worst, predicted, write_cases


@dataclass
class Guess:
    """One scan: the network's number and, where known, the true one."""

    scan_id: str
    value: float
    truth: float | None


class Guessing:
    """A task whose network multiplies; decided on val is the largest error."""

    name = "guessing"

    def __init__(self) -> None:
        self.order: list[str] = []

    def predict(self, network: nn.Module, loader: Any, progress: str) -> list[Guess]:
        assert not network.training
        assert not torch.is_grad_enabled()
        self.order.append(progress)
        return [Guess(name, float(network(torch.tensor([[x]]))), truth) for name, x, truth in loader]

    def calibrate(self, cases: list[Guess]) -> dict[str, Any]:
        return {"tolerance": max(self._errors(cases).values())}

    def report(self, cases: list[Guess], decisions: dict[str, Any]) -> dict[str, Any]:
        errors = self._errors(cases)
        within = sum(error <= decisions["tolerance"] for error in errors.values())
        return {"num_scans": len(cases), "within": within}

    def scores(self, cases: list[Guess], decisions: dict[str, Any]) -> dict[str, float]:
        return {name: -error for name, error in self._errors(cases).items()}

    def save(self, cases: list[Guess], decisions: dict[str, Any], folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "guesses.txt"
        file.write_text("\n".join(f"{case.scan_id} {case.value:g}" for case in cases))
        return [file]

    def draw(self, case: Guess, decisions: dict[str, Any], axes: Any) -> None:
        axes.plot([case.value, case.truth])

    def summary(self, report: dict[str, Any]) -> str:
        return f"{report['within']} within"

    @staticmethod
    def _errors(cases: list[Guess]) -> dict[str, float]:
        return {case.scan_id: abs(case.value - case.truth) for case in cases if case.truth is not None}


class Doubling:
    """Fits by setting the factor to two."""

    name = "doubling"

    def __init__(self, model: BestModel) -> None:
        self.model = model

    def fit(self) -> dict[str, Any]:
        nn.init.constant_(self.model.network.weight, 2.0)
        self.model.save()
        return {"factor": 2}


VAL = [("v0", 1.0, 2.5), ("v1", 2.0, 4.0)]
TEST = [("t0", 1.0, 2.0), ("t1", 1.0, 2.4), ("t2", 1.0, 5.0)]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    model = BestModel(tmp_path / "model.pt", nn.Linear(1, 1, bias=False))
    task = Guessing()
    run = TaskRun(task, Doubling(model), {"val": VAL, "test": TEST}, {"seed": 3}, "guess", {"channels": 1}, tmp_path)
    run.run()
    assert task.order == ["val", "test"]
    return tmp_path


def test_names_that_could_not_be_read_back_are_refused_before_training(tmp_path: Path) -> None:
    model, settings = BestModel(tmp_path / "model.pt", nn.Linear(1, 1)), {"classes": {"1": "$mass"}}
    with pytest.raises(ValueError, match=r"model\.json: settings\.classes\.1: '\$mass' .* choose a name"):
        TaskRun(Guessing(), Doubling(model), {}, {}, "guess", settings, tmp_path)


def test_val_decides_and_test_is_measured(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["decisions"] == {"tolerance": 0.5}
    assert metrics["val"] == {"num_scans": 2, "within": 2}
    assert metrics["test"] == {"num_scans": 3, "within": 2}
    assert (metrics["task"], metrics["method"], metrics["seed"]) == ("guessing", "doubling", 3)
    assert metrics["fit"] == {"factor": 2}
    assert (trained / "predictions/test/guesses.txt").read_text() == "t0 2\nt1 2\nt2 2"
    assert (trained / "cases.png").stat().st_size > 1000


def test_files_of_a_run_and_of_the_one_before_are_told_apart(trained: Path) -> None:
    before = {name: (trained / name).read_bytes() for name in ("model.pt", "model.json", "metrics.json")}
    assert json.loads(before["metrics.json"])["model_sha256"] == read_record(trained / "model.pt")["sha256"]
    (trained / "predictions/test/of_another_scan.txt").write_text("t9 1")

    class Interrupted(Guessing):
        def predict(self, network: nn.Module, loader: Any, progress: str) -> list[Guess]:
            raise KeyboardInterrupt

    model = BestModel(trained / "model.pt", nn.Linear(1, 1, bias=True))
    with pytest.raises(KeyboardInterrupt):
        TaskRun(Interrupted(), Doubling(model), {"val": VAL, "test": TEST}, {}, "guess", {}, trained).run()
    assert (trained / "metrics.json").read_bytes() == before["metrics.json"]
    assert file_hash(trained / "model.pt") != json.loads(before["metrics.json"])["model_sha256"]
    with pytest.raises(ValueError, match="written by different runs"):
        read_record(trained / "model.pt")
    TaskRun(Guessing(), Doubling(model), {"val": VAL, "test": TEST}, {}, "guess", {}, trained).run()
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["model_sha256"] == read_record(trained / "model.pt")["sha256"] == file_hash(trained / "model.pt")
    assert [file.name for file in (trained / "predictions/test").iterdir()] == ["guesses.txt"]


def test_an_earlier_picture_goes_where_there_is_none_to_draw(trained: Path) -> None:
    unlabelled = [("n0", 4.0, None)]
    assert (
        write_cases(
            Guessing(), predicted(Guessing(), nn.Linear(1, 1).eval(), unlabelled, ""), {}, trained / "cases.png"
        )
        is None
    )
    assert not (trained / "cases.png").exists()


def test_evaluation_repeats_the_test_with_a_fresh_network(trained: Path, tmp_path: Path) -> None:
    model = BestModel(trained / "model.pt", nn.Linear(1, 1, bias=False))
    metrics = Evaluation(Guessing(), model, TEST, {"seed": 4}, tmp_path / "again").run()
    assert metrics["test"] == {"num_scans": 3, "within": 2}
    assert metrics["model_sha256"] == read_record(trained / "model.pt")["sha256"]
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == metrics


def test_prediction_needs_no_truth(trained: Path, tmp_path: Path) -> None:
    model = BestModel(trained / "model.pt", nn.Linear(1, 1, bias=False))
    files = Prediction(Guessing(), model, [("n0", 4.0, None)], tmp_path / "new").run()
    assert files[0].read_text() == "n0 8"


def test_a_model_of_another_task_is_refused(trained: Path, tmp_path: Path) -> None:
    task = Guessing()
    task.name = "betting"
    model = BestModel(trained / "model.pt", nn.Linear(1, 1, bias=False))
    with pytest.raises(ValueError, match="trained for guessing, not for betting"):
        Prediction(task, model, [], tmp_path).run()


def test_weights_of_another_network_are_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pt: these weights cannot be loaded"):
        BestModel(trained / "model.pt", nn.Linear(2, 1)).restore()


def test_a_record_belongs_to_its_weights(trained: Path) -> None:
    model = trained / "model.pt"
    assert read_record(model)["settings"] == {"channels": 1}
    torch.save({}, model)
    with pytest.raises(ValueError, match="written by different runs"):
        read_record(model)
    record_path(model).write_text("{}")
    with pytest.raises(ValueError, match="not the record"):
        read_record(model)
    record_path(model).unlink()
    with pytest.raises(ValueError, match="One is missing"):
        read_record(model)


def test_best_median_and_worst_are_different_scans() -> None:
    assert best_median_worst({"a": 0.1, "b": 0.9, "c": 0.5}) == {"best": "b", "median": "c", "worst": "a"}
    assert best_median_worst({"a": 0.1, "b": 0.9}) == {"best": "b", "worst": "a"}
    assert best_median_worst({"a": 0.1}) == {"best": "a"}
