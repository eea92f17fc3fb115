# SPDX-License-Identifier: Apache-2.0
"""A worker does what its case says and reports what that cost; what cannot be measured is said."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
import torch

from benchmarks.speed import meter, rounds
from benchmarks.speed.__main__ import main
from benchmarks.speed.cases import Case, Comparison, Plan, Setting
from benchmarks.speed.rounds import Launcher, measure_comparison
from benchmarks.speed.tables import read_rows
from benchmarks.speed.worker import build, measure, random_images, random_masks

ENCODER = Case(
    "ours", "ours", {"encoder": "resnet18_narrow", "execution": "packed"}, "encoder", (64, 64), 2, 3, 0.6, 16,
    threads=1, counted=True,
)  # fmt: skip
STEP = replace(ENCODER, work="step", options={**ENCODER.options, "decoder": "thin", "optimizer": "adamw"})
SETTING = Setting((64, 64), 2, 0.6, 1)


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark


def comparison(**changes) -> Comparison:
    values = {"name": "small", "work": "encoder", "channels": 3, "cell_size": 16, "image_sizes": [(64, 64)]}
    values |= {"batches": [2], "masked": [0.6], "ours": ["ours"], "against": ["peer"]}
    return Comparison(**{**values, **changes})


def plan(turns: int = 1) -> Plan:
    contenders = {"ours": {"module": "ours", **ENCODER.options}, "peer": {"module": "spark"}}
    return Plan(contenders, [comparison()], turns, warmup=0, steps=1, seed=0)


def test_an_encoder_is_timed_and_counted():
    report = measure(ENCODER)
    assert report["cpu_s"] > 0
    assert report["wall_s"] > 0
    assert report["peak_mb"] >= report["start_mb"] > 0
    assert report["multiply_adds"] == report["encoder_multiply_adds"]
    assert 0 < report["submanifold"] < report["block"] < report["dense"]
    assert report["submanifold"] <= report["multiply_adds"] <= report["block"]


def test_masked_dense_execution_computes_everything():
    report = measure(replace(ENCODER, options={**ENCODER.options, "execution": "masked_dense"}))
    assert report["multiply_adds"] == report["dense"]


def test_a_whole_step_costs_more_than_its_encoder_and_trains():
    report = measure(STEP)
    assert report["multiply_adds"] > report["encoder_multiply_adds"] > 0
    assert report["loss"] > 0
    work = build(STEP)
    before = [parameter.detach().clone() for parameter in work.network.parameters() if parameter.requires_grad]
    work.step(random_images(STEP), random_masks(STEP, 0))
    after = [parameter for parameter in work.network.parameters() if parameter.requires_grad]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True) if new.abs().sum() > 0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_plain_network_hides_nothing(channels_last):
    options = {"encoder": "resnet18_narrow", "channels_last": channels_last}
    report = measure(replace(ENCODER, module="plain", options=options))
    assert report["multiply_adds"] == measure(ENCODER)["dense"]
    assert "block" not in report


def test_uncounted_measurements_are_short():
    report = measure(replace(ENCODER, counted=False))
    assert "multiply_adds" not in report
    assert report["parameters"] > 0


def test_masks_show_exactly_as_many_cells_as_sparks_do_and_change_from_step_to_step():
    case = replace(ENCODER, image_size=(224, 224), cell_size=32, batch=4)
    first, second = random_masks(case, 0), random_masks(case, 1)
    assert first.host.shape == (4, 1, 7, 7)
    assert first.host.flatten(1).sum(dim=1).tolist() == [round(49 * 0.4)] * 4
    assert not torch.equal(first.host, second.host)
    assert torch.equal(first.host, random_masks(case, 0).host)


def test_a_process_that_fails_is_reported_in_its_own_words():
    row = Launcher({}, None)(replace(ENCODER, options={"encoder": "no_such_network"}))
    assert row["problem"].startswith("failed: ValueError: No component 'no_such_network'")


@pytest.mark.parametrize(
    ("peers", "site", "reason"),
    [
        ({}, "tests", "--spark is not given"),
        ({"spark": "no/such/folder"}, "tests", "--spark names no folder"),
        ({"spark": "tests"}, None, "--site is not given"),
    ],
)
def test_a_peer_that_is_missing_is_skipped_with_the_reason(peers, site, reason):
    assert Launcher(peers, site)(replace(ENCODER, module="spark")) == {"problem": f"skipped: {reason}"}


def test_contenders_take_turns_and_are_counted_once():
    calls = []

    def run(case: Case):
        calls.append((case.contender, case.counted))
        return {"cpu_s": 1.0}

    rows = list(measure_comparison(plan(turns=2), comparison(), SETTING, "cpu", run))
    assert calls == [("ours", True), ("peer", True), ("ours", False), ("peer", False)]
    assert [row["round"] for row in rows] == [0, 0, 1, 1]
    assert rows[0]["image_size"] == "64x64"


def test_what_cannot_be_measured_is_not_tried_again():
    def run(case: Case):
        return {"problem": "skipped: no"} if case.contender == "peer" else {"cpu_s": 1.0}

    rows = list(measure_comparison(plan(turns=3), comparison(), SETTING, "cpu", run))
    assert [row["contender"] for row in rows] == ["ours", "peer", "ours", "ours"]


SMALL = """
seed: 0
rounds: 1
warmup: 0
steps: 1
quick: {rounds: 1, warmup: 0, steps: 1, batch: 2}
contenders:
  ours: {module: ours, encoder: resnet18_narrow, execution: packed}
  SparK: {module: spark}
comparisons:
- {name: small, work: encoder, channels: 3, cell_size: 16, image_sizes: [[64, 64]], batches: [2], masked: [0.6],
   ours: [ours], against: [SparK], bars: [{ours: ours, against: SparK, figure: cpu_s, below: 1}]}
"""


def test_the_command_writes_its_tables_and_says_who_is_missing(tmp_path, monkeypatch, capsys):
    cases = tmp_path / "cases.yaml"
    cases.write_text(SMALL)
    arguments = ["--cases", str(cases), "--results", str(tmp_path / "results"), "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["benchmarks.speed", *arguments])
    main()
    rows = read_rows(tmp_path / "results" / "speed.csv")
    assert [row["contender"] for row in rows] == ["ours", "SparK"]
    assert rows[0]["multiply_adds"] > 0
    table = (tmp_path / "results" / "speed.md").read_text()
    assert "skipped: --spark is not given" in table
    assert "**not measured**" in table
    assert "SparK: skipped: --spark is not given" in capsys.readouterr().out


def test_on_a_gpu_events_time_the_work(monkeypatch):
    now = [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now[0]

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = [lambda seconds=seconds: now.__setitem__(0, now[0] + 1000 * seconds) for seconds in (1, 4, 2)]
    assert meter.time_on_cuda(calls)["wall_s"] == 2.0


def test_a_process_that_is_killed_is_reported(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "what it said last")
    monkeypatch.setattr(rounds.subprocess, "run", lambda *_, **__: killed)
    assert rounds.launch(ENCODER) == {"problem": "failed: killed by SIGKILL"}
