# SPDX-License-Identifier: Apache-2.0
"""Ratios, limits and bars are what the rows say, and tables keep every row."""

from __future__ import annotations

import pytest

from benchmarks.speed.cases import Bar, Comparison
from benchmarks.speed.ratios import Spread, limit, ratio, spread, verdicts
from benchmarks.speed.tables import markdown, merge, read_rows, write_rows

OURS, PEER = "ours", "a peer"


def row(contender, turn, cpu_s, masked=0.6, device="cpu", **figures):
    setting = {"comparison": "2D", "device": device, "threads": 2, "image_size": "64x64", "batch": 8, "masked": masked}
    about = {"torch": "2.0", "machine": "a processor", "wall_s": cpu_s / 2, "peak_mb": 100.0, "others": 0.1}
    return {**setting, "contender": contender, "round": turn, "cpu_s": cpu_s, **about, **figures}


def rows_of(ours, peer, masked=0.6):
    pairs = zip(ours, peer, strict=True)
    return [
        each
        for turn, (mine, its) in enumerate(pairs)
        for each in (row(OURS, turn, mine, masked), row(PEER, turn, its, masked))
    ]


def comparison(*bars):
    return Comparison("2D", "step", 3, 32, [(64, 64)], [8], [0.6, 0.7], [OURS], [PEER], bars)


def test_ratios_are_taken_within_rounds():
    rows = rows_of([1.0, 2.0, 9.0], [2.0, 10.0, 10.0])
    assert ratio(rows, OURS, PEER, "cpu_s") == Spread(0.5, 0.2, 0.9)
    assert spread(rows, OURS, "cpu_s") == Spread(2.0, 1.0, 9.0)
    assert ratio(rows, OURS, "nobody", "cpu_s") is None


def test_rounds_without_both_are_left_out():
    rows = [*rows_of([1.0], [2.0]), row(OURS, 1, 5.0), {**row(PEER, 1, 1.0), "cpu_s": None, "problem": "failed"}]
    assert ratio(rows, OURS, PEER, "cpu_s") == Spread(0.5, 0.5, 0.5)


def test_the_limit_keeps_what_is_not_encoder():
    ours = row(OURS, 0, 1.0, multiply_adds=50, encoder_multiply_adds=40, block=30.0, submanifold=20.0)
    rows = [ours, row(PEER, 0, 1.0, multiply_adds=100)]
    assert limit(rows, OURS, PEER, "block") == pytest.approx(0.4)
    assert limit(rows, OURS, PEER, "submanifold") == pytest.approx(0.3)
    assert limit(rows, PEER, OURS, "block") is None


@pytest.mark.parametrize(
    ("bar", "words"),
    [
        (Bar(OURS, PEER, "cpu_s", at_most=0.5), ["met", "not measured"]),
        (Bar(OURS, PEER, "cpu_s", below=0.5), ["not met", "not measured"]),
        (Bar(OURS, PEER, "cpu_s", at_most={0.6: 0.4}), ["not met"]),
        (Bar(OURS, PEER, "cpu_s", at_most={0.7: 0.4}), ["not measured"]),
    ],
)
def test_bars_are_held_against_the_median_of_the_settings_that_have_one(bar, words):
    rows = rows_of([1.0, 1.0, 1.0], [2.0, 4.0, 1.0])
    assert [verdict.word for verdict in verdicts([comparison(bar)], rows, threads=2)] == words


def test_bars_are_those_of_the_cpu():
    rows = [row(OURS, 0, 1.0, device="cuda"), row(PEER, 0, 9.0, device="cuda")]
    found = verdicts([comparison(Bar(OURS, PEER, "cpu_s", below=1))], rows, threads=2)
    assert {verdict.word for verdict in found} == {"not measured"}


def test_rows_survive_the_file(tmp_path):
    rows = [row(OURS, 0, 1.5, multiply_adds=3.0, block=1.0), {**row(PEER, 0, 2.5), "problem": "skipped: no"}]
    write_rows(tmp_path / "speed.csv", rows)
    again = read_rows(tmp_path / "speed.csv")
    assert [{key: value for key, value in each.items() if value is not None} for each in again] == rows
    assert read_rows(tmp_path / "nothing.csv") == []


def test_settings_that_are_measured_again_replace_their_rows():
    old = [*rows_of([1.0], [2.0]), *rows_of([3.0], [4.0], masked=0.7)]
    merged = merge(old, rows_of([5.0], [6.0]))
    assert [each["cpu_s"] for each in merged] == [3.0, 4.0, 5.0, 6.0]


def test_the_page_says_who_met_what_and_on_what():
    rows = rows_of([1.0], [4.0])
    rows[0] |= {"multiply_adds": 2e9, "encoder_multiply_adds": 1e9, "block": 1e9, "submanifold": 0.5e9}
    rows[1] |= {"multiply_adds": 8e9}
    bar = Bar(OURS, PEER, "cpu_s", at_most={0.6: 0.3})
    page = markdown([comparison(bar)], rows, threads=2)
    assert "- a processor, torch 2.0" in page
    assert "1 met, 0 not met, 0 not measured." in page
    assert (
        "| 2D | 2 | 8 | 60% | ours / a peer | CPU time | 0.25 [0.25, 0.25] | ≤ 0.3 | **met** | 0.250 | 0.188 |" in page
    )
    assert "| 0.250 | 0.250 | 0.188 |" in page
    assert "| 2 | 64x64 | 8 | 60% | ours | 1 [1, 1] | 0.5 [0.5, 0.5] | 16 images | 100 |" in page
