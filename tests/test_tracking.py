# SPDX-License-Identifier: Apache-2.0
"""Every training run can be followed: in TensorBoard always, in MLflow with `--tracking mlflow`, in a local folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.handlers import MLFlowHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from custom.handlers import TrackedRun
from datasets.phantoms import ensure_phantoms

HAS_MLFLOW = find_spec("mlflow") is not None
QUICK = {
    "max_epochs": 2,
    "batch_size": 4,
    "warmup_epochs": 0,
    "log_interval": 1,
    "backbone": "resnet18_narrow",
    "device": "cpu",  # text: MONAI writes the config of a tracked run as JSON
}
TASK = {**QUICK, "image_size": [32, 32], "resamples": 2}
RUNS: dict[str, dict[str, Any]] = {
    "pretrain": {**QUICK, "image_size": [32, 32], "decoder_options": {"width": 8}, "prompt": "brain tumor"},
    "classify": TASK,
    "train": {**TASK, "segmenter_options": {"channels": 4}},
    "detect": TASK,
}
VALIDATION = {"pretrain": "val_loss", "classify": "macro_auroc", "train": "dice", "detect": "ap"}


@dataclass(frozen=True)
class Finished:
    """A run that has ended."""

    config: str
    folder: Path

    @property
    def tensorboard(self) -> EventAccumulator:
        events = EventAccumulator(str(self.folder / "tensorboard"))
        events.Reload()
        return events


@pytest.fixture(scope="module")
def finished(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Runs each config once; with MLflow where it is installed."""
    root = tmp_path_factory.mktemp("tracking")
    scans = ensure_phantoms("brain_mri", 2, root=root, size=32, counts={"train": 8, "val": 4, "test": 4})
    done: dict[str, Finished] = {}

    def run(config: str) -> Finished:
        if config not in done:
            folder = root / config
            workflow = ConfigWorkflow(
                str(configs / f"{config}.yaml"),
                logging_file=False,
                workflow_type="train",
                tracking="mlflow" if HAS_MLFLOW else None,
                bundle_root=str(configs.parent),
                dataset_dir=str(scans),
                output_dir=str(folder),
                **RUNS[config],
            )
            workflow.initialize()
            workflow.run()
            done[config] = Finished(config, folder)
        return done[config]

    return run


def tracked(run: Finished) -> tuple[Any, Any]:
    """The client, and the only run in the folder's database."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.folder}/mlruns.db")
    (found,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return client, found


def steps(client: Any, found: Any, name: str) -> list[int]:
    return sorted(each.step for each in client.get_metric_history(found.info.run_id, name))


@pytest.mark.parametrize("config", RUNS)
def test_tensorboard_has_losses_rates_and_validation(finished, config):
    scalars = finished(config).tensorboard
    tags = scalars.Tags()["scalars"]
    assert {"iteration_loss", "train_loss", "learning_rate"} <= set(tags)
    assert [event.step for event in scalars.Scalars("train_loss")] == [1, 2]
    if config != "pretrain":
        assert any(VALIDATION[config] in tag for tag in tags)


@pytest.mark.parametrize("config", RUNS)
def test_mlflow_has_losses_rates_and_validation(finished, config):
    client, found = tracked(finished(config))
    assert found.info.status == "FINISHED"
    assert found.info.run_name.startswith(f"{config}_")
    metrics = set(found.data.metrics)
    assert {"iteration_loss", "train_loss", "learning_rate", "lr_group_0"} <= metrics
    assert steps(client, found, "train_loss") == [1, 2]
    assert steps(client, found, "iteration_loss") == [1, 2, 3, 4]
    assert any(VALIDATION[config] in name for name in metrics)


def test_mlflow_has_the_ratios_of_masking(finished):
    client, found = tracked(finished("pretrain"))
    for name in ("hidden_ratio", "region_hidden_ratio", "background_hidden_ratio"):
        assert steps(client, found, name) == [1, 2]
    assert 0.5 < found.data.metrics["region_hidden_ratio"] < 0.9


@pytest.mark.parametrize("config", RUNS)
def test_mlflow_has_the_settings_and_no_scans(finished, config):
    run = finished(config)
    _, found = tracked(run)
    expected = {"seed": "0", "max_epochs": "2", "batch_size": "4", "image_size": "[32, 32]"}
    if config == "pretrain":
        expected |= {"prompts": "['brain tumor']", "masking": "region", "backbone": "resnet18_narrow"}
    assert expected.items() <= found.data.params.items()
    database = (run.folder / "mlruns.db").read_bytes()
    scans = [path.name for path in (run.folder.parent).rglob("*.png") if path.parent.name == "images"]
    assert not any(name.encode() in database for name in scans)


def test_what_is_logged_of_settings():
    settings = {
        "masking": "region", "gate": {"verdict": "use"}, "classes": [1, 2], "weights": torch.tensor([0.5, 1.0]),
        "nothing": None, "empty": {}, "none": [], "scans": [f"scan_{at}.png" for at in range(100)], "a:b": 1,
    }  # fmt: skip
    run = TrackedRun("pretrain", settings)
    assert run.parameters == {
        "masking": "region", "gate.verdict": "use", "classes": "[1, 2]", "weights": "[0.5, 1.0]", "a_b": "1"
    }  # fmt: skip


class Unconnected(MLFlowHandler):
    """A handler without a client, which needs no package."""

    def __init__(self, iteration_log: bool, run_name: str | None = None) -> None:
        self.iteration_log, self.run_name, self.experiment_param = iteration_log, run_name, None


def test_only_mlflows_handlers_are_changed():
    other, trainer, validator = object(), Unconnected(True), Unconnected(False)
    run = TrackedRun("classify", {"seed": 3}, log_interval=10)
    assert run.prepared([other, trainer]) == [other, trainer]
    run.prepared([validator])
    assert trainer.run_name == validator.run_name == run.name
    assert (trainer.experiment_param, validator.experiment_param) == ({"seed": "3"}, None)
    assert [step for step in range(1, 31) if trainer.iteration_log(None, step)] == [10, 20, 30]
    assert validator.iteration_log is False
    assert trainer.output_transform({"loss": 0.5, "pred": None}) == 0.5


def test_a_name_that_was_given_stays():
    handler = Unconnected(True, run_name="mine")
    TrackedRun("train", {}).prepared([handler])
    assert handler.run_name == "mine"


def test_a_run_that_was_killed_is_not_joined(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/mlruns.db"
    client = mlflow.MlflowClient(tracking_uri=address)
    experiment = client.create_experiment("monai_experiment", artifact_location=str(tmp_path / "mlruns"))
    killed = client.create_run(experiment, run_name="train_killed").info.run_id  # stays "running" for ever
    engine = Engine(lambda engine, batch: {"loss": 0.25})
    for handler in TrackedRun("train", {"seed": 1}).prepared([MLFlowHandler(address, close_on_complete=True)]):
        handler.attach(engine)
    engine.run([0, 1], max_epochs=1)
    runs = {each.info.run_id: each for each in client.search_runs([experiment])}
    assert (len(runs), runs[killed].data.metrics) == (2, {})
    (own,) = (each for name, each in runs.items() if name != killed)
    assert (own.data.params["seed"], own.data.metrics) == ("1", {"iteration_loss": 0.25})
