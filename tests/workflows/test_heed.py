# SPDX-License-Identifier: Apache-2.0
"""Pretraining listens to the gate."""

from __future__ import annotations

import logging

import pytest
import torch

from custom.gate import GateRecord, PromptGate
from custom.masking import RandomMasking, RegionMasking, RegionMatchedRandom
from custom.regions import RegionRecord, RegionStore
from custom.workflows import heed_gate


def store_with(folder, **verdicts):
    prompts = {prompt: PromptGate(verdict, ["a reason"], {}, []) for prompt, verdict in verdicts.items()}
    GateRecord({"name": "x"}, "D", 2, 0.5, prompts, {}).save(folder)
    return RegionStore(folder, read_only=True)


def test_without_a_gate_it_says_so_and_masks_as_asked(tmp_path, caplog):
    strategy = RegionMasking()
    with caplog.at_level(logging.INFO):
        heeded = heed_gate(strategy, RegionStore(tmp_path), ["tumor"], how_to="Run this.")
    assert heeded.strategy is strategy
    assert not heeded.replaced
    assert "No gate has looked" in caplog.text
    assert "Run this." in caplog.text


@pytest.mark.parametrize("verdict", ["use", "use with care"])
def test_a_prompt_that_may_be_used(tmp_path, verdict, caplog):
    strategy = RegionMasking()
    with caplog.at_level(logging.INFO):
        heeded = heed_gate(strategy, store_with(tmp_path, tumor=verdict), ["tumor"])
    assert heeded.strategy is strategy
    assert heeded.as_info() == {"verdicts": {"tumor": verdict}, "masked_at_random_instead": False}
    assert f"{verdict} (a reason)" in caplog.text


def test_one_bad_prompt_among_several_turns_to_the_control(tmp_path, caplog):
    strategy = RegionMasking(0.8, 0.2, threshold=0.3, min_visible=2)
    store = store_with(tmp_path, tumor="use", chair="do not use")
    heeded = heed_gate(strategy, store, ["tumor", "chair"])
    assert isinstance(heeded.strategy, RegionMatchedRandom)
    assert heeded.replaced
    assert "Masking at random instead" in caplog.text
    assert str(tmp_path) in caplog.text


def test_the_control_hides_as_many_cells_elsewhere(tmp_path):
    strategy = RegionMasking(1.0, 0.0)
    control = heed_gate(strategy, store_with(tmp_path, chair="do not use"), ["chair"]).strategy
    coverage = torch.zeros(16, 8, 8)
    coverage[:, :3, :3] = 1
    wanted = strategy.sample(coverage, torch.Generator().manual_seed(0)).visible
    random = control.sample(coverage, torch.Generator().manual_seed(0)).visible
    assert torch.equal(wanted.sum((1, 2)), random.sum((1, 2)))
    assert not wanted[:, :3, :3].any()
    assert random[:, :3, :3].any()


def test_it_can_be_overruled(tmp_path):
    strategy = RegionMasking()
    heeded = heed_gate(strategy, store_with(tmp_path, chair="do not use"), ["chair"], heed=False)
    assert heeded.strategy is strategy
    assert heeded.verdicts == {"chair": "do not use"}


@pytest.mark.parametrize(("maker", "replaced"), [({"name": "x"}, True), ({"name": "y"}, False)])
def test_a_gate_of_another_localizer_is_not_heeded(tmp_path, maker, replaced, caplog):
    store_with(tmp_path, chair="do not use")
    store = RegionStore(tmp_path)
    store.save("b.png", "chair", torch.zeros(4, 4), RegionRecord(maker, "chair", (4, 4), ""))
    heeded = heed_gate(RegionMasking(), store, ["chair"], scan_ids=["a.png", "b.png"])
    assert heeded.replaced == replaced
    assert ("of another localizer" in caplog.text) != replaced


def test_masks_without_region_need_no_gate(tmp_path):
    strategy = RandomMasking(0.6)
    assert heed_gate(strategy, store_with(tmp_path, chair="do not use"), ["chair"]).strategy is strategy


def test_a_strategy_without_control_is_refused(tmp_path):
    class Other:
        needs_region = True

    with pytest.raises(ValueError, match="no random control"):
        heed_gate(Other(), store_with(tmp_path, chair="do not use"), ["chair"])
