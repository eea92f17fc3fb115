# SPDX-License-Identifier: Apache-2.0
"""Means over seeds and their intervals against closed forms."""

from __future__ import annotations

import math

import pytest

from custom.workflows.study.intervals import Estimate, estimate, paired_difference
from custom.workflows.study.verdict import BETTER, EQUAL, OPEN, UNKNOWN, WORSE, judge

T_2, T_1 = 4.302652729911275, 12.706204736432095  # 97.5 % quantiles of Student's t with two and one degrees of freedom


def test_mean_spread_and_t_interval():
    found = estimate([0.5, 0.6, 0.7], [0, 1, 2])
    assert (found.mean, found.spread, found.runs, found.units) == (pytest.approx(0.6), pytest.approx(0.1), 3, 3)
    assert (found.low, found.high) == (pytest.approx(0.6 - T_2 * 0.1 / 3**0.5), pytest.approx(0.6 + T_2 * 0.1 / 3**0.5))


def test_a_cauchy_interval_for_other_levels():
    # Student's t with one degree of freedom is Cauchy's distribution: its quantile is tan(pi (p - 1/2)).
    found = estimate([1.0, 3.0], ["a", "b"], level=0.5)
    assert found.high == pytest.approx(2 + math.tan(math.pi * 0.25) * 2**0.5 / 2**0.5)


def test_runs_of_one_encoder_are_averaged_first():
    found = estimate([1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 0, 1])  # means 3 and 4
    assert (found.mean, found.runs, found.units) == (3.5, 6, 2)
    assert found.spread == pytest.approx(3.5**0.5)
    assert found.high - found.mean == pytest.approx(T_1 * math.sqrt(0.5) / 2**0.5)


def test_one_unit_has_no_interval_and_no_run_no_estimate():
    assert estimate([0.4], [0]) == Estimate(0.4, None, None, None, 1, 1)
    both = estimate([0.4, 0.6], ["a", "a"])
    assert (both.mean, both.low, both.high) == (0.5, None, None)
    assert both.spread == pytest.approx(0.02**0.5)
    assert estimate([], []) is None
    with pytest.raises(ValueError, match="level"):
        estimate([1, 2], [0, 1], level=95)


def test_differences_are_taken_pair_by_pair():
    first, second = {0: 0.9, 1: 0.5, 2: 0.7, 3: 0.2}, {1: 0.4, 0: 0.7, 2: 0.4}
    found = paired_difference(first, second, {0: 0, 1: 1, 2: 2, 3: 3})  # 0.2, 0.1, 0.3; the fourth has no partner
    assert (found.mean, found.spread, found.runs) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    assert found.low == pytest.approx(0.2 - T_2 * 0.1 / 3**0.5)
    assert paired_difference({0: 1.0}, {1: 1.0}, {0: 0, 1: 1}) is None


@pytest.mark.parametrize(
    ("low", "high", "judged"),
    [
        (0.1, 0.2, BETTER),
        (-0.2, -0.1, WORSE),
        (-0.1, 0.1, OPEN),
        (0.0, 0.1, OPEN),
        (0, 0, EQUAL),
        (None, None, UNKNOWN),
    ],
)
def test_what_an_interval_says(low, high, judged):
    difference = Estimate(0.0, 0.1, low, high, 3, 3)
    assert judge(difference) == judged
    opposite = {BETTER: WORSE, WORSE: BETTER}
    assert judge(difference, higher_is_better=False) == opposite.get(judged, judged)
    assert judge(None) == UNKNOWN
