# SPDX-License-Identifier: Apache-2.0
"""Rows of measurements as ``speed.csv``, and what they say as ``speed.md``."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Comparison
from benchmarks.speed.ratios import SETTING, Row, Spread, Verdict, by_setting, counted, limit, ratio, spread, verdicts

TEXTS = ("comparison", "device", "image_size", "contender", "problem", "torch", "machine", "gpu")
INTEGERS = ("threads", "batch", "round", "parameters")
COLUMNS = (
    *SETTING, "contender", "round", "cpu_s", "wall_s", "peak_mb", "start_mb", "multiply_adds", "encoder_multiply_adds",
    "dense_forward", "dense", "block", "submanifold", "parameters", "loss", "others", "problem", "torch", "machine",
    "gpu",
)  # fmt: skip
FIGURES = {"cpu_s": "CPU time", "wall_s": "wall time", "peak_mb": "peak memory"}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read a CSV file that :func:`write_rows` wrote; no rows if there is none."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(stream)]


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write all rows to a CSV file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="raise", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)


def merge(old: Iterable[Row], new: Sequence[Row]) -> list[Row]:
    """Replace the rows of all settings that were measured again."""
    again = by_setting(new)
    return [*(row for key, rows in by_setting(old).items() if key not in again for row in rows), *new]


def markdown(comparisons: Sequence[Comparison], rows: Sequence[Row], threads: int) -> str:
    """All tables: the bars first, then every comparison."""
    lines = ["# Speed and memory, process by process", "", EXPLANATION, ""]
    lines += [f"- {machine}" for machine in dict.fromkeys(_machine(row) for row in rows if not row.get("problem"))]
    lines += ["", "## Bars", "", BARS, "", *_bar_table(list(verdicts(comparisons, rows, threads)))]
    for (name, device), part in _by_comparison(rows).items():
        lines += ["", f"## {name}{', GPU' if device == 'cuda' else ''}", "", *_contender_table(part)]
        comparison = next((each for each in comparisons if each.name == name), None)
        if comparison is not None:
            lines += ["", *_ratio_table(comparison.on(device), part)]
    return "\n".join([*lines, "", "## Encoders", "", ENCODERS, "", *_encoder_table(rows)]) + "\n"


def _value(key: str, text: str) -> Any:
    if text == "" or key in TEXTS:
        return text or None
    return int(text) if key in INTEGERS else float(text)


def _machine(row: Row) -> str:
    return ", ".join(filter(None, (row.get("gpu"), row.get("machine"), f"torch {row.get('torch')}")))


def _by_comparison(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["comparison"], row["device"]), []).append(row)
    return parts


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    yield from (f"| {' | '.join(cells)} |" for cells in body)


def _bar_table(found: Sequence[Verdict]) -> Iterator[str]:
    words = Counter(verdict.word for verdict in found)
    yield ", ".join(f"{words[word]} {word}" for word in ("met", "not met", "not measured")) + "."
    yield ""
    head = ["comparison", "threads", "batch", "hidden", "ours / against", "of", "ratio", "bar", "", "needed, block",
            "needed, submanifold"]  # fmt: skip
    yield from _table(head, map(_bar_cells, found))


def _bar_cells(verdict: Verdict) -> list[str]:
    bar, (name, _, threads, _, batch, masked) = verdict.bar, verdict.setting
    sign = "<" if bar.below is not None else "≤"
    return [
        name, str(threads), str(batch), f"{masked:.0%}", f"{bar.ours} / {bar.against}", FIGURES[bar.figure],
        _spread(verdict.ratio), f"{sign} {verdict.wanted:g}", f"**{verdict.word}**",
        *(("–", "–") if bar.figure == "peak_mb" else map(_number, (verdict.block, verdict.submanifold))),
    ]  # fmt: skip


def _contender_table(rows: Sequence[Row]) -> Iterator[str]:
    head = ["threads", "size", "batch", "hidden", "model", "CPU s", "wall s", "per second", "peak MB", "at start",
            "G multiply-adds", "others"]  # fmt: skip
    yield from _table(
        head,
        (
            [*_setting_cells(key), name, *_contender_cells(group, name)]
            for key, group in by_setting(rows).items()
            for name in dict.fromkeys(row["contender"] for row in group)
        ),
    )


def _contender_cells(group: Sequence[Row], name: str) -> list[str]:
    wall = spread(group, name, "wall_s")
    if wall is None:
        problem = next(row["problem"] for row in group if row["contender"] == name)
        return [problem, *["–"] * 6]
    peak, start, others = (spread(group, name, figure) for figure in ("peak_mb", "start_mb", "others"))
    done = counted(group, name, "multiply_adds")
    return [
        _spread(spread(group, name, "cpu_s")),
        _spread(wall),
        _throughput(group[0], wall.median),
        f"{peak.median:.0f}" if peak else "–",
        f"{start.median:.0f}" if start else "–",
        f"{done / 1e9:.1f}" if done else "–",
        f"{others.median:.2f}" if others else "–",
    ]


def _throughput(row: Row, seconds: float) -> str:
    sides = [int(side) for side in row["image_size"].split("x")]
    images = row["batch"] / seconds
    return f"{images:.3g} images" if len(sides) == 2 else f"{images * prod(sides) / 1e6:.3g} Mvoxels"


def _ratio_table(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    head = ["threads", "size", "batch", "hidden", "ours / against", *FIGURES.values(), "multiply-adds",
            "needed, block", "needed, submanifold"]  # fmt: skip
    yield from _table(
        head,
        (
            [*_setting_cells(key), f"{ours} / {against}", *_ratio_cells(group, ours, against)]
            for key, group in by_setting(rows).items()
            for ours in comparison.ours
            for against in comparison.against
            if ratio(group, ours, against, "wall_s")
        ),
    )


def _ratio_cells(group: Sequence[Row], ours: str, against: str) -> list[str]:
    done, whole = (counted(group, name, "multiply_adds") for name in (ours, against))
    return [
        *(_spread(ratio(group, ours, against, figure)) for figure in FIGURES),
        _number(done / whole if done and whole else None),
        *(_number(limit(group, ours, against, kind)) for kind in ("block", "submanifold")),
    ]


def _encoder_table(rows: Sequence[Row]) -> Iterator[str]:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        if row.get("dense_forward"):
            cost = f"{row['dense_forward'] / row['batch'] / 1e9:.2f}"
            found.setdefault((row["image_size"], row["contender"]), (cost, f"{row['parameters'] / 1e6:.1f}"))
    head = ["size", "model", "G multiply-adds of the encoder, one image, forward", "M parameters that learn, in all"]
    yield from _table(head, ([*key, *cells] for key, cells in found.items()))


def _setting_cells(key: tuple[Any, ...]) -> list[str]:
    _, _, threads, size, batch, masked = key
    return [str(threads), size, str(batch), f"{masked:.0%}"]


def _spread(values: Spread | None) -> str:
    if values is None:
        return "–"
    return f"{values.median:.3g} [{values.low:.3g}, {values.high:.3g}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


EXPLANATION = """\
Made by `python -m benchmarks.speed`; every measurement is a line of `speed.csv`. Each is a process of its own that
builds one model, warms up and does some steps on random images; the models of a comparison take turns, with the same
images, masks and number of threads. Peers run from their own unmodified checkouts, with their own decoder, loss,
optimizer and clipping. *CPU s*: user and system time of a step, all threads; *wall s*: by the clock (on a GPU between
CUDA events, bfloat16 autocast). Medians over the rounds, with the smallest and the largest. *Peak MB*: the process's
largest memory, all its libraries included (on a GPU: its tensors); *at start*: before the first step. *Multiply-adds*:
of one step, forward and backward, convolutions and matrix products as executed. *Others*: processors that other
programs kept busy meanwhile; with several threads on a busy machine, CPU seconds include waiting. Ratios are medians of
those within a round. *Needed*: multiply-adds of the same step, over the peer's, if our encoder were executed exactly
and nothing were wasted: *block* computes all taps of visible outputs, *submanifold* only pairs of a visible input and a
visible output. An encoder alone returns its maps as its decoder takes them: ours packed, the others dense."""
BARS = "What this repository set itself to reach, on a CPU. The ratio that counts is the median."
ENCODERS = "The 3D encoders of ours were chosen to cost at least as much as the peer's if everything is computed."
