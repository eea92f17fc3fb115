# SPDX-License-Identifier: Apache-2.0
"""The profile cuts a step without changing it; the pictures of growth are drawn from their table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.speed import growth, profile_step
from benchmarks.speed.cases import Case
from benchmarks.speed.worker import build, random_images, random_masks

OPTIONS = {"encoder": "resnet18_narrow", "execution": "packed", "decoder": "thin", "optimizer": "adamw"}
STEP = Case("ours", "ours", OPTIONS, "step", (64, 64), 2, 1, 0.5, 16, threads=1)


def test_a_step_in_parts_is_the_whole_step():
    works = []
    for cut in (False, True):
        torch.manual_seed(0)
        work, image, masks = build(STEP), random_images(STEP), random_masks(STEP, 0)
        if cut:
            with profile_step.named_tables():
                profile_step.step_in_parts(work, image, masks)
        else:
            work.step(image, masks)
        works.append(work.network.state_dict())
    for name, value in works[0].items():
        torch.testing.assert_close(works[1][name], value, msg=name)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mm", "_Convolution", "encoder", "step"], "matrix products"),
        (["aten::index_select", "_ConvolutionBackward", "encoder", "step"], "gathering"),
        (["aten::maximum", "_MaxPool", "encoder", "step"], "pooling"),
        (["aten::native_batch_norm", "aten::batch_norm", "encoder", "step"], "normalisation"),
        (["_Convolution", "encoder", "step"], "rest"),
        (["aten::mm", "decoder", "step"], "decoder"),
        (["aten::nonzero", "tables", "_ConvolutionBackward", "decoder", "step"], "tables"),
        (["aten::mul", "step"], "rest"),
    ],
)
def test_operations_have_a_kind(names, kind):
    assert profile_step.kind_of(names) == kind


def test_the_profile_accounts_for_every_kind_of_work():
    threads = torch.get_num_threads()
    parts = profile_step.profile_steps(STEP, steps=1, threads=threads)
    assert list(parts) == list(profile_step.WORDS)
    assert all(parts[kind] > 0 for kind in parts)


def test_what_is_profiled_is_compared_elsewhere():
    for chosen in profile_step.PROFILED.values():
        case = profile_step.profiled_case(*chosen)
        assert (case.batch, case.masked) == chosen[2:]
        assert case.work == "step"


def test_loading_that_is_too_slow_is_said():
    loading = {"two": 0.5, "cpu": 0.2, "batches": 12}
    assert "two processes keep up" in profile_step.loading_words(loading, step=1000)
    assert "two processes do not keep up" in profile_step.loading_words(loading, step=400)


def test_growth_measures_three_executions_of_a_case(tmp_path, monkeypatch):
    small = replace(growth.BASE, options={"encoder": "resnet18_narrow"}, image_size=(64, 64), batch=2)
    threads = torch.get_num_threads()
    rows = growth.measure_case(small, rounds=1)
    torch.set_num_threads(threads)
    assert [row["execution"] for row in rows] == list(growth.EXECUTIONS)
    packed, masked, plain = rows
    assert packed["executed"] < masked["executed"] == plain["executed"] == plain["dense"]
    assert packed["visible"] == 0.5  # two of four cells: as close to 0.4 as it goes


def test_growth_is_drawn_from_its_table(tmp_path):
    rows = []
    for name, sweep in growth.SWEEPS.items():
        for case in sweep.cases:
            about = growth.describe(case)
            cost = case.batch * case.image_size[0] ** 2 / 1e5
            for execution in growth.EXECUTIONS:
                figures = {"cpu_s": cost, "low": cost, "high": cost, "executed": 1e9, "dense": 2e9, "needed": 1e9}
                rows.append({"sweep": name, "execution": execution, **about, **figures})
    growth.write(tmp_path / "growth.csv", rows)
    again = growth.read(tmp_path / "growth.csv")
    assert [row["cpu_s"] for row in again] == [row["cpu_s"] for row in rows]
    growth.draw(again, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
