# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what survives, what is kept, what is resumed."""

from __future__ import annotations

import errno

import pytest
import torch
from ignite.engine import Engine

from custom.handlers import ResumeTraining, TrainingCheckpoint
from custom.handlers.checkpoint import checkpoints


def train(folder, epochs, *, resume=False, network=None, interval=1, keep=2):
    """Add one to a weight each iteration; two iterations an epoch."""
    network = network or torch.nn.Linear(1, 1)

    def step(engine, batch):
        with torch.no_grad():
            network.weight.add_(1)

    engine = Engine(step)
    objects = {"network": network}
    if resume:
        ResumeTraining(folder, objects).attach(engine)
    TrainingCheckpoint(folder, objects, interval, keep).attach(engine)
    engine.run([0, 1], max_epochs=epochs)
    return network, engine


def fresh():
    network = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(network.weight)
    return network


def test_the_newest_are_kept(tmp_path):
    train(tmp_path / "c", 5, keep=2)
    assert [epoch for epoch, _ in checkpoints(tmp_path / "c")] == [4, 5]


def test_the_last_epoch_is_written_whatever_the_interval(tmp_path):
    train(tmp_path / "c", 5, interval=3, keep=9)
    assert [epoch for epoch, _ in checkpoints(tmp_path / "c")] == [3, 5]


def test_resuming_goes_on_where_it_stopped(tmp_path):
    train(tmp_path / "c", 2, network=fresh())
    network, engine = train(tmp_path / "c", 5, resume=True, network=fresh())
    assert network.weight.item() == 10
    assert engine.state.epoch == 5


def test_resuming_a_finished_run_trains_no_more(tmp_path):
    train(tmp_path / "c", 3, network=fresh())
    network, _ = train(tmp_path / "c", 3, resume=True, network=fresh())
    assert network.weight.item() == 6


def test_resuming_without_checkpoint_starts_anew(tmp_path, caplog):
    with caplog.at_level("INFO"):
        network, _ = train(tmp_path / "c", 1, resume=True, network=fresh())
    assert network.weight.item() == 2
    assert "starts from the beginning" in caplog.text


@pytest.mark.parametrize("other", [torch.nn.Linear(3, 1), torch.nn.Sequential(torch.nn.Linear(1, 1))])
def test_a_checkpoint_of_another_network_is_named(tmp_path, other):
    train(tmp_path / "c", 1, network=fresh())
    with pytest.raises(ValueError, match=r"checkpoint_epoch=1\.pt: .*another network.*--output_dir.*--resume false"):
        train(tmp_path / "c", 2, resume=True, network=other)
    assert [epoch for epoch, _ in checkpoints(tmp_path / "c")] == [1]


def mixed_precision(scale, **options):
    """An engine that scales its gradients, as MONAI's trainers do under the same name."""
    engine = Engine(lambda engine, batch: None)
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    for handler in (ResumeTraining, TrainingCheckpoint):
        handler(objects={"network": fresh()}, **options).attach(engine)
    return engine


def test_the_scale_of_mixed_precision_is_kept(tmp_path):
    mixed_precision(64.0, folder=tmp_path / "c").run([0], max_epochs=1)
    engine = mixed_precision(8.0, folder=tmp_path / "c")
    engine.run([0], max_epochs=2)
    assert engine.scaler.get_scale() == 64.0


@pytest.mark.parametrize("scales", [(64.0, None), (None, 8.0)])
def test_a_run_may_be_resumed_at_another_precision(tmp_path, scales):
    mixed_precision(scales[0], folder=tmp_path / "c").run([0], max_epochs=1)
    engine = mixed_precision(scales[1], folder=tmp_path / "c")
    engine.run([0], max_epochs=2)
    assert engine.state.epoch == 2


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    train(tmp_path / "c", 4, network=fresh())
    newest = checkpoints(tmp_path / "c")[-1][1]
    newest.write_bytes(newest.read_bytes()[:200])
    network, _ = train(tmp_path / "c", 4, resume=True, network=fresh())
    assert network.weight.item() == 8
    assert "cannot be read" in caplog.text


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    train(folder, 1, network=fresh(), keep=1)

    def full_disk(content, target):
        target.write_bytes(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("custom.handlers.checkpoint.torch.save", full_disk)
    with pytest.raises(
        OSError, match=r"checkpoint_epoch=2.*No space left.*checkpoint_epoch=1\.pt is intact.*--resume true"
    ):
        train(folder, 2, resume=True, network=fresh(), keep=1)
    assert [path.name for path in folder.iterdir()] == ["checkpoint_epoch=1.pt"]
    assert torch.load(folder / "checkpoint_epoch=1.pt", weights_only=True)["network"]["weight"].item() == 2


def test_a_new_run_sets_earlier_checkpoints_aside(tmp_path, caplog):
    train(tmp_path / "c", 5)
    train(tmp_path / "c", 1)
    assert [epoch for epoch, _ in checkpoints(tmp_path / "c")] == [1]
    assert [epoch for epoch, _ in checkpoints(tmp_path / "c.previous")] == [4, 5]
    assert "--resume true" in caplog.text


def test_intervals_are_checked(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        TrainingCheckpoint(tmp_path, {}, interval=0)
