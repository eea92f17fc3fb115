# SPDX-License-Identifier: Apache-2.0
"""The bootstrap: whole groups are drawn, intervals are quantiles of the draws."""

from __future__ import annotations

import numpy as np
import pytest

from custom.metrics.resampling import bootstrap, drawn_weights, interval


def test_draws_hold_whole_groups():
    weights = drawn_weights(4, ["p", "p", "q", "r"], 50, 1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()
    assert np.array_equal(weights, drawn_weights(4, ["p", "p", "q", "r"], 50, 1))
    assert not np.array_equal(weights, drawn_weights(4, ["p", "p", "q", "r"], 50, 2))


def test_scans_are_drawn_without_groups():
    weights = drawn_weights(5, resamples=2000)
    assert (weights.sum(axis=1) == 5).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)


def test_interval_is_made_of_quantiles_and_leaves_out_the_undefined():
    assert interval([*range(101), np.nan], 0.9) == pytest.approx([5, 95])
    assert interval([np.nan]) is None
    assert interval([]) is None


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda weights: float(np.average(values, weights=weights)), 400, resamples=2000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)
    assert bootstrap(lambda weights: None, 3, resamples=4) is None


@pytest.mark.parametrize(("count", "groups"), [(1, None), (3, ["p", "p", "p"])])
def test_one_patient_has_no_interval(count, groups):
    """Every draw would hold the same scans: an interval without width, as if the figure were certain."""
    assert drawn_weights(count, groups).shape == (0, count)
    assert bootstrap(lambda weights: 0.7, count, groups) is None


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="2 groups were given for 3 scans"):
        drawn_weights(3, ["a", "b"])
    with pytest.raises(ValueError, match="at least one scan"):
        drawn_weights(0)
    with pytest.raises(ValueError, match="level"):
        interval([1.0], 1.5)
