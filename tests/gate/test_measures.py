# SPDX-License-Identifier: Apache-2.0
"""Figures of the gate against closed forms."""

from __future__ import annotations

import pytest

from custom.gate import Answer, ScanAnswers, measure_prompt
from custom.gate.measures import roc_area

KINDS = ("synonym", "misspelling", "other organ", "nonsense")


def answer(similarity=1.0, coverage=0.1, score=0.9, refused=False):
    return Answer(similarity, coverage, score, refused)


def scan(similarities, target=None, **more):
    return ScanAnswers("scan", target or answer(), tuple(answer(each) for each in similarities), **more)


def test_sensitivity_stability_and_heeding():
    measures = measure_prompt([scan([1.0, 0.8, 0.2, 0.0]), scan([0.6, 0.4, 0.5, 0.1])], KINDS)
    assert measures.stability == pytest.approx(0.7)
    assert measures.sensitivity == pytest.approx(1 - 0.2)
    # First scan: all four pairs right. Second: 0.6 beats both, 0.4 beats one of two.
    assert measures.heeding == pytest.approx((1 + 0.75) / 2)


def test_a_constant_map_heeds_nothing():
    measures = measure_prompt([scan([1, 1, 1, 1])] * 3, KINDS)
    assert (measures.sensitivity, measures.stability, measures.heeding) == (0, 1, 0.5)


def test_scans_without_a_find_count_for_found_only():
    nothing = scan([1, 1, 1, 1], target=answer(coverage=0.0, score=0.0))
    measures = measure_prompt([scan([1, 1, 0, 0]), nothing], KINDS)
    assert measures.found == 0.5
    assert measures.coverage == pytest.approx(0.1)
    assert measures.sensitivity == 1


def test_nothing_found_at_all():
    nothing = scan([1, 1, 1, 1], target=answer(coverage=0.0, score=0.0))
    measures = measure_prompt([nothing, nothing], KINDS)
    assert measures.found == 0
    assert measures.coverage is measures.sensitivity is measures.stability is measures.heeding is None


def test_without_scans_nothing_is_measured():
    with pytest.raises(ValueError, match="measured nothing"):
        measure_prompt([], KINDS)


def test_presence_is_a_roc_area():
    scans = [scan([1] * 4, target=answer(score=value)) for value in (0.9, 0.5)]
    measures = measure_prompt(scans, KINDS, elsewhere=[answer(score=0.5), answer(score=0.1)])
    assert measures.presence == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert measure_prompt(scans, KINDS).presence is None


def test_kinds_without_phrases_leave_their_figures_open():
    measures = measure_prompt([ScanAnswers("scan", answer(), (answer(0.3),))], ("nonsense",))
    assert measures.stability is None
    assert measures.heeding is None
    assert measures.sensitivity == pytest.approx(0.7)


def test_agreement_distance_and_truth_are_means():
    scans = [
        scan([1] * 4, others={"clipseg": 0.2}, blind={"disc": 0.25}, truth={"dice": 0.5}),
        scan([1] * 4, others={}, blind={"disc": 0.75}, truth=None),
    ]
    measures = measure_prompt(scans, KINDS)
    assert measures.agreement == {"clipseg": 0.2}
    assert measures.blind_distance == {"disc": 0.5}
    assert measures.truth == {"dice": 0.5}


def test_intervals_hold_the_mean_and_are_reproducible():
    scans = [scan([1.0, value, 0.1, value / 2]) for value in (0.2, 0.4, 0.6, 0.8)]
    first, second = (measure_prompt(scans, KINDS, seed=1).intervals for _ in range(2))
    assert first == second
    low, high = first["stability"]
    assert low < 0.75 < high


def test_figures_are_ready_for_json():
    import json

    assert json.loads(json.dumps(measure_prompt([scan([1, 1, 0, 0])] * 2, KINDS).as_dict()))["heeding"] == 1


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [((3, 2), (1,), 1), ((1,), (1, 1), 0.5), ((0,), (1,), 0), ((), (1,), 0.5)]
)
def test_roc_area(positives, negatives, expected):
    assert roc_area(positives, negatives) == expected
