# SPDX-License-Identifier: Apache-2.0
"""What is compared is read as it is written, and everything that it names exists."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.speed.cases import Bar, Case, Comparison, Plan, Setting
from benchmarks.speed.contenders.ours import CONFIGS, encoder_spec
from benchmarks.speed.rounds import PEERS

PLAN = Plan.read()
COMPARISON = Comparison.of(
    {
        "name": "a comparison",
        "work": "step",
        "channels": 1,
        "cell_size": 16,
        "image_sizes": [[32, 32], [64, 64]],
        "batches": [1, 4],
        "masked": [0.4, 0.6],
        "ours": ["ours"],
        "against": ["a peer"],
        "also_threads": [1],
        "on_cuda": {"batches": [64]},
    }
)


@pytest.mark.parametrize("name", PLAN.contenders)
def test_every_contender_and_component_exists(name):
    options = PLAN.contenders[name]
    module = importlib.import_module(f"benchmarks.speed.contenders.{options['module']}")
    assert callable(module.build)
    for kind in ("encoder", "decoder", "optimizer"):
        if kind in options and options["module"] not in PEERS:
            assert (CONFIGS / f"{kind}s" / f"{options[kind]}.yaml").is_file()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_comparisons_and_bars_name_contenders_that_take_part(device):
    for comparison in Plan.read(device=device).comparisons:
        assert set(comparison.contenders) <= set(PLAN.contenders)
        for bar in comparison.bars:
            assert bar.ours in comparison.ours
            assert bar.against in comparison.against
        for setting in comparison.settings(threads=2):
            assert all(side % comparison.cell_size == 0 for side in setting.image_size)


@pytest.mark.parametrize("name", ["ours, DynUNet", "ours, SegResNet"])
def test_our_encoders_for_3d_can_be_built(name):
    comparison = next(each for each in PLAN.comparisons if name in each.ours)
    case = PLAN.case(comparison, next(comparison.settings(2)), name, "cpu", counted=False)
    encoder = encoder_spec(case, case.options["encoder"], case.options["encoder_options"]).build()
    assert encoder.strides == [1, 2, 4, 8, 16]


def test_settings_are_all_combinations_with_the_usual_threads_first():
    settings = list(COMPARISON.settings(threads=2))
    assert len(settings) == 2 * 2 * 2 * 2
    assert settings[0] == Setting((32, 32), 1, 0.4, 2)
    assert [setting.threads for setting in settings] == [2] * 8 + [1] * 8


def test_threads_are_not_measured_twice():
    assert len(list(COMPARISON.settings(threads=1))) == 8


def test_a_gpu_gets_its_own_batches():
    assert {setting.batch for setting in COMPARISON.on("cuda").settings(2)} == {64}
    assert COMPARISON.on("cpu") == COMPARISON


def test_quick_is_one_small_setting():
    assert list(COMPARISON.quick(batch=2).settings(2)) == [Setting((32, 32), 1, 0.6, 2)]
    plan = Plan.read(quick=True)
    assert (plan.rounds, plan.steps) == (1, 1)
    assert all(len(list(comparison.settings(2))) == 1 for comparison in plan.comparisons)


def test_a_case_survives_the_command_line():
    setting = Setting((32, 48), 3, 0.6, 1)
    case = PLAN.case(COMPARISON, setting, "ours packed", "cpu", counted=True)
    again = Case.from_json(case.as_json())
    assert again.grid == (2, 3)
    assert (again.contender, again.module, again.options["encoder"]) == ("ours packed", "ours", "resnet50")
    assert (again.batch, again.threads, again.counted, again.work) == (3, 1, True, "step")


def test_bars_for_some_shares_only():
    bar = Bar("ours", "a peer", "cpu_s", at_most={0.4: 0.4, 0.6: 0.33})
    assert bar.limit(0.6) == 0.33
    assert bar.limit(0.7) is None
    assert bar.is_met(0.33, 0.6)
    assert not bar.is_met(0.34, 0.6)
    assert not bar.is_met(0.1, 0.7)


def test_below_is_strict():
    bar = Bar("ours", "a peer", "peak_mb", below=1)
    assert bar.is_met(0.999, 0.3)
    assert not bar.is_met(1.0, 0.3)


@pytest.mark.parametrize("limits", [{}, {"at_most": 1, "below": 1}])
def test_a_bar_has_one_limit(limits):
    with pytest.raises(ValueError, match="either at_most or below"):
        Bar("ours", "a peer", "cpu_s", **limits)
