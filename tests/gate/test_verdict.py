# SPDX-License-Identifier: Apache-2.0
"""Verdicts of typical localizers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from custom.gate import DO_NOT_USE, USE, USE_WITH_CARE, GateRules, PromptMeasures, judge

GOOD = PromptMeasures(
    scans=8, other_scans=4, found=1.0, coverage=0.1, sensitivity=0.9, stability=0.9, heeding=1.0, presence=1.0,
    blind_distance={"centred disc": 0.7, "body": 0.8},
)  # fmt: skip


def test_a_prompt_that_is_heeded():
    verdict, reasons = judge(GOOD)
    assert verdict == USE
    assert "follows the prompt" in reasons[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sensitivity": 0.1}, "nearly the same map"),
        ({"heeding": 0.5}, "words do not matter"),
        ({"found": 0.1}, "only 10.0 % of the scans"),
        ({"heeding": 0.8, "presence": 0.3}, "neither the words nor what the scans show"),
        ({"coverage": 0.95}, "no background"),
    ],
)
def test_a_map_that_the_prompt_does_not_decide(change, word):
    verdict, reasons = judge(replace(GOOD, **change))
    assert verdict == DO_NOT_USE
    assert word in " ".join(reasons)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sensitivity": 0.5}, "partly the same"),
        ({"heeding": 0.8}, "not every phrase"),
        ({"stability": 0.4}, "spelling"),
        ({"presence": 0.5}, "target is absent"),
        ({"found": 0.5}, "nothing is found on 50.0 %"),
        ({"coverage": 0.7}, "70.0 %"),
        ({"coverage": 0.0001}, "0.0 %"),
        ({"blind_distance": {"body": 0.05}}, "sees no prompt"),
    ],
)
def test_doubts(change, word):
    verdict, reasons = judge(replace(GOOD, **change))
    assert verdict == USE_WITH_CARE
    assert word in " ".join(reasons)


def test_what_need_not_be_known_condemns_nobody():
    verdict, reasons = judge(replace(GOOD, presence=None, blind_distance={}))
    assert verdict == USE
    assert "presence unknown" in reasons[0]


@pytest.mark.parametrize("unknown", [None, float("nan")])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("sensitivity",), ["whether foreign phrases give another map"]),
        (("stability", "heeding"), ["whether phrases that mean the same give the same map"]),
        (("sensitivity", "stability", "heeding", "presence"), ["foreign phrases", "mean the same"]),
    ],
)
def test_nothing_is_praised_that_was_not_measured(names, words, unknown):
    verdict, reasons = judge(replace(GOOD, **dict.fromkeys(names, unknown)))
    assert verdict == USE_WITH_CARE
    assert len(reasons) == len(words)
    assert all(f"not measured {word}" in reason or word in reason for word, reason in zip(words, reasons, strict=True))


def test_what_is_not_known_comes_before_doubts_and_after_what_is_grave():
    unknown = replace(GOOD, heeding=None, found=0.5)
    assert ["not measured" in reason for reason in judge(unknown)[1]] == [True, False]
    assert judge(replace(unknown, sensitivity=0.1))[0] == DO_NOT_USE


@pytest.mark.parametrize(
    ("scans", "found", "verdict"),
    [(1, 1.0, USE_WITH_CARE), (4, 0.25, USE_WITH_CARE), (2, 1.0, USE), (0, float("nan"), USE_WITH_CARE)],
)
def test_one_scan_says_little_of_the_others(scans, found, verdict):
    said, reasons = judge(replace(GOOD, scans=scans, found=found))
    assert said == verdict
    assert ("too few to say anything of the others" in reasons[0]) == (verdict == USE_WITH_CARE)
    assert judge(replace(GOOD, scans=1), GateRules(good_scans=1))[0] == USE


def test_all_reasons_are_given():
    assert len(judge(replace(GOOD, sensitivity=0.0, heeding=0.5))[1]) == 2


def test_limits_can_be_changed():
    assert judge(replace(GOOD, sensitivity=0.3), GateRules(least_sensitivity=0.4))[0] == DO_NOT_USE
