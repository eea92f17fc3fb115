# SPDX-License-Identifier: Apache-2.0
"""Seeding, history, clipping, mask statistics."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import RandScaleIntensityd

from custom.handlers import EpochSeeding, GradientClipping, MaskStatistics, RunSeed, TrainingHistory, read_history


def loader(workers: int = 0) -> DataLoader:
    data = [{"image": torch.ones(1, 2, 2) * value} for value in range(6)]
    dataset = Dataset(data, RandScaleIntensityd("image", factors=0.5, prob=1.0))
    return DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers, generator=torch.Generator())


def batches(seed: int, first: int, last: int, workers: int = 0) -> list[list[float]]:
    """What each epoch of a process that starts with epoch ``first`` gets to see."""
    seen: list[list[float]] = []
    engine = Engine(lambda engine, batch: seen[-1].extend(batch["image"][:, 0, 0, 0].tolist() + torch.rand(1).tolist()))
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: seen.append([]))
    data = loader(workers)
    EpochSeeding(seed, data).attach(engine)
    if first > 1:
        engine.load_state_dict({"epoch": first - 1, "max_epochs": last, "epoch_length": len(data)})
    engine.run(data, max_epochs=last)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_depends_on_seed_and_epoch_alone(workers):
    whole = batches(7, 1, 4, workers)
    assert batches(7, 3, 4, workers) == whole[2:]
    assert whole[0] != whole[1]
    assert batches(8, 1, 1, workers) != whole[:1]


def test_a_fixed_seed_repeats_and_leaves_torch_alone():
    data = loader()
    seeding = EpochSeeding(0, data, fixed=True)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1))
    seeding(engine)
    state, first = torch.get_rng_state(), [batch["image"] for batch in data]
    seeding(engine)
    second = [batch["image"] for batch in data]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_the_checkpoints_seed_wins(caplog):
    seed = RunSeed(1)
    seeding = EpochSeeding(seed, loader())
    seed.load_state_dict({"seed": 5})
    assert seeding.seed.state_dict() == {"seed": 5}
    assert "seed 1 is ignored" in caplog.text


def test_history_is_kept_up_to_the_resumed_epoch(tmp_path):
    file = tmp_path / "history.csv"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)

    def run(epochs, start=0):
        engine = Engine(lambda engine, batch: None)
        TrainingHistory(file, optimizer).attach(engine)
        engine.state.epoch = start
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 1}) if start else None
        engine.run([0], max_epochs=epochs)

    run(4)
    assert [row["epoch"] for row in read_history(file)] == ["1", "2", "3", "4"]
    run(3, start=2)
    assert [row["epoch"] for row in read_history(file)] == ["1", "2", "3"]
    run(1)
    assert read_history(file) == [{"epoch": "1", "learning_rate": "0.25"}]


def test_validation_metrics_join_the_epochs_that_were_validated(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
    engine, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)

    def validate(engine):
        validator.state.epoch, validator.state.metrics = engine.state.epoch, {"val_loss": 0.5}

    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), validate)
    TrainingHistory(tmp_path / "history.csv", optimizer, validator).attach(engine)
    engine.run([0], max_epochs=3)
    assert [row["val_loss"] for row in read_history(tmp_path / "history.csv")] == ["", "0.5", ""]


def test_gradients_are_clipped_to_the_norm():
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    GradientClipping(1.0)(SimpleNamespace(network=network))
    torch.testing.assert_close(network.weight.grad, torch.tensor([[0.6, 0.8]]))
    with pytest.raises(ValueError, match="must be positive"):
        GradientClipping(0)


def test_gradients_of_mixed_precision_are_scaled_back_before_they_are_clipped():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, [{"image": torch.full((1, 1), 8.0), "label": torch.zeros(1)}], network,
        torch.optim.SGD(network.parameters(), lr=1.0), lambda prediction, label: prediction.sum(),
        train_handlers=[GradientClipping(2.0)], decollate=False,
    )  # fmt: skip
    # As on a GPU, where the engine makes its own: a gradient of 8 becomes 8192; it is to be clipped to 2, not 2/1024.
    trainer.amp, trainer.scaler = True, torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.amp_kwargs = {"enabled": False}
    trainer.run()
    assert network.weight.item() == pytest.approx(-2.0, rel=1e-5)


def test_ratios_are_averaged_over_the_scans_that_have_them(caplog):
    info = {
        "hidden_ratio": [0.4, 0.6],
        "region_share": [0.0, 0.5],
        "region_hidden_ratio": [0.0, 0.8],
        "background_hidden_ratio": [0.4, 0.4],
        "fallback": [1.0, 0.0],
    }
    engine = Engine(lambda engine, batch: None)
    MaskStatistics().attach(engine)
    engine.run([{"mask_info": {name: torch.tensor(value) for name, value in info.items()}}] * 3, max_epochs=1)
    expected = {"hidden_ratio": 0.5, "region_share": 0.25, "region_hidden_ratio": 0.8}
    expected |= {"background_hidden_ratio": 0.4, "fallback_share": 0.5}
    assert engine.state.metrics == pytest.approx(expected)
    assert "50.0 %" in caplog.text


def test_the_share_of_empty_cells_is_reported_where_they_are_left_out():
    names = ("hidden_ratio", "region_share", "region_hidden_ratio", "background_hidden_ratio", "fallback")
    batches = [
        {"mask_info": {**{name: torch.zeros(len(share)) for name in names}, "empty_share": torch.tensor(share)}}
        for share in ([0.2, 0.4], [0.6])
    ]
    engine = Engine(lambda engine, batch: None)
    MaskStatistics().attach(engine)
    engine.run(batches, max_epochs=1)
    assert engine.state.metrics["empty_share"] == pytest.approx(0.4)
