# SPDX-License-Identifier: Apache-2.0
"""How the cost of an encoder grows with images, batches, visible cells and its own size.

    python -m benchmarks.speed.growth               # measure and draw
    python -m benchmarks.speed.growth --draw-only   # draw growth.csv again

Forward and backward pass, CPU seconds of one thread: packed beside masked dense beside the plain dense network, taking
turns. Results: ``benchmarks/results/growth.csv`` and ``growth.png``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from benchmarks.speed.cases import Case
from benchmarks.speed.rounds import processor
from benchmarks.speed.worker import measure

BASE = Case("", "ours", {"encoder": "resnet18"}, "encoder", (192, 192), 4, 3, 0.6, 32, threads=1)
EXECUTIONS = {
    "packed": ("ours", {"execution": "packed"}),
    "masked dense": ("ours", {"execution": "masked_dense"}),
    "plain dense": ("plain", {"channels_last": True}),
}
STYLES = {
    "packed": {"color": "#1b7837", "marker": "o", "linewidth": 2.2},
    "masked dense": {"color": "#b35806", "marker": "s", "linewidth": 1.4},
    "plain dense": {"color": "#7f7f7f", "marker": "^", "linewidth": 1.4, "linestyle": "--"},
}
COLUMNS = (
    "sweep", "execution", "encoder", "side", "batch", "visible", "cpu_s", "low", "high", "executed", "dense", "needed",
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """One thing that is varied, everything else being as in ``BASE``.

    Args:
        title: of its panel.
        label: of its horizontal axis.
        cases: what is measured.
        place: where a row stands on the horizontal axis.
        tick: what is written there; None: numbers wherever they fall.
    """

    title: str
    label: str
    cases: Sequence[Case]
    place: Callable[[Row], float]
    tick: Callable[[Row], str] | None


SWEEPS = {
    "image": Sweep(
        "Image size",
        "pixels of an image",
        [replace(BASE, image_size=(side, side)) for side in (64, 128, 192, 224, 256, 288)],
        lambda row: row["side"] ** 2,
        lambda row: f"{row['side']}²",
    ),
    "batch": Sweep(
        "Batch",
        "images in a batch",
        [replace(BASE, batch=batch) for batch in (1, 2, 4, 6, 8)],
        lambda row: row["batch"],
        lambda row: str(row["batch"]),
    ),
    "visible": Sweep(
        "Visible cells",
        "share in per cent, the rest is hidden",
        [replace(BASE, masked=masked) for masked in (0.0, 0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)],
        lambda row: 100 * row["visible"],
        None,
    ),
    "encoder": Sweep(
        "Encoder",
        "depth of the ResNet, placed at its dense multiply-adds",
        [replace(BASE, options={"encoder": f"resnet{depth}"}) for depth in (10, 18, 34, 50)],
        lambda row: row["dense"] / 1e9,
        lambda row: row["encoder"].removeprefix("resnet"),
    ),
}


def main() -> None:
    """Measure unless told not to, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the three executions take turns")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn")
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    file = arguments.results / "growth.csv"
    if not arguments.draw_only:
        write(file, [row for name in SWEEPS for row in measure_sweep(name, arguments.rounds, arguments.steps)])
    draw(read(file), file.with_suffix(".png"))


def measure_sweep(name: str, rounds: int, steps: int) -> Iterator[Row]:
    """Yield one row for each case and execution."""
    for case in SWEEPS[name].cases:
        for row in measure_case(replace(case, steps=steps), rounds):
            print(f"{name}: {row['execution']}, {row['encoder']}, {row['side']} px, batch {row['batch']}, "
                  f"{row['visible']:.0%} visible: {row['cpu_s']:.3f} CPU s", flush=True)  # fmt: skip
            yield {"sweep": name, **row}


def measure_case(case: Case, rounds: int) -> list[Row]:
    """Measure the three executions in turn; one row each."""
    reports: dict[str, list[Row]] = {name: [] for name in EXECUTIONS}
    for turn in range(rounds):
        for name in EXECUTIONS:
            reports[name].append(measure(as_executed(case, name, counted=turn == 0)))
    ours = reports["packed"][0]
    return [{**describe(case), "execution": name, **summary(each), "dense": ours["dense"], "needed": ours["block"]}
            for name, each in reports.items()]  # fmt: skip


def as_executed(case: Case, execution: str, counted: bool) -> Case:
    """A case with one of the three executions."""
    module, options = EXECUTIONS[execution]
    return replace(case, contender=execution, module=module, options={**case.options, **options}, counted=counted)


def describe(case: Case) -> Row:
    """What was varied."""
    cells = case.grid[0] * case.grid[1]
    visible = round(cells * (1 - case.masked)) / cells
    return {"encoder": case.options["encoder"], "side": case.image_size[0], "batch": case.batch, "visible": visible}


def summary(reports: Sequence[Mapping[str, Any]]) -> Row:
    """Median and range over the turns."""
    seconds = [report["cpu_s"] for report in reports]
    low, high = min(seconds), max(seconds)
    return {"cpu_s": statistics.median(seconds), "low": low, "high": high, "executed": reports[0]["multiply_adds"]}


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    measured = list(rows)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, "machine", "torch"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "machine": processor(), "torch": torch.__version__} for row in measured)


def read(file: Path) -> list[Row]:
    """Read what :func:`write` wrote."""
    texts, integers = {"sweep", "execution", "encoder", "machine", "torch"}, {"side", "batch"}
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            {key: text if key in texts else int(text) if key in integers else float(text) for key, text in row.items()}
            for row in csv.DictReader(stream)
        ]


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw all sweeps as small multiples, and the packed cost against the work that visible positions are."""
    figure, panels = plt.subplots(2, 3, figsize=(12.5, 7.2), layout="constrained")
    for panel, (name, sweep) in zip(panels.flat, SWEEPS.items(), strict=False):
        draw_sweep(panel, sweep, [row for row in rows if row["sweep"] == name])
    draw_work(panels[1, 1], [row for row in rows if row["execution"] == "packed"])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    panels[1, 2].legend(handles, labels, loc="upper left", frameon=False, fontsize=11, borderaxespad=0)
    panels[1, 2].text(0, 0.62, caption(rows[0]), va="top", fontsize=9.5, color="0.25", transform=panels[1, 2].transAxes)
    panels[1, 2].axis("off")
    for panel in panels[:, 0]:
        panel.set_ylabel("CPU seconds of a step")
    figure.suptitle("Packed execution costs what is visible: encoder, forward and backward pass", fontsize=14)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw_sweep(panel: Axes, sweep: Sweep, rows: Sequence[Row]) -> None:
    """One panel: three executions against what is varied."""
    for name, style in STYLES.items():
        own = sorted((row for row in rows if row["execution"] == name), key=sweep.place)
        at, seconds = [sweep.place(row) for row in own], [row["cpu_s"] for row in own]
        panel.fill_between(at, [row["low"] for row in own], [row["high"] for row in own], color=style["color"],
                           alpha=0.15, linewidth=0)  # fmt: skip
        panel.plot(at, seconds, label=name, markersize=5, **style)
    if sweep.tick is not None:
        ticks = {sweep.place(row): sweep.tick(row) for row in rows}
        panel.set_xticks(list(ticks), list(ticks.values()))
    dress(panel, sweep.title, sweep.label)


def draw_work(panel: Axes, rows: Sequence[Row]) -> None:
    """All packed measurements against the multiply-adds of visible positions, and a line through the origin."""
    work, seconds = [row["needed"] / 1e9 for row in rows], [row["cpu_s"] for row in rows]
    pace = sum(seconds) / sum(work)
    for marker, (name, sweep) in zip("oDsv", SWEEPS.items(), strict=True):
        own = [row for row in rows if row["sweep"] == name]
        panel.plot([row["needed"] / 1e9 for row in own], [row["cpu_s"] for row in own], marker, markersize=5,
                   color=STYLES["packed"]["color"], alpha=0.7, label=sweep.title.lower())  # fmt: skip
    far = max(work)
    panel.plot([0, far], [0, far * pace], color="0.4", linewidth=1, zorder=0, label=f"{1 / pace:.0f} billion a second")
    panel.legend(frameon=False, fontsize=9, loc="upper left")
    dress(panel, "All packed measurements", "multiply-adds of visible positions, billions")


def dress(panel: Axes, title: str, label: str) -> None:
    """Axes from zero, without ornament."""
    panel.set_title(title, fontsize=12, loc="left")
    panel.set_xlabel(label)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)


def caption(row: Row) -> str:
    """What is measured, on what."""
    side = BASE.image_size[0]
    return (
        f"Where not varied: ResNet-18, {side} px, batch {BASE.batch},\n{BASE.masked:.0%} of the cells (32 px) hidden, "
        f"3 channels.\nMedian of the rounds; bands: smallest to largest.\n"
        f"One thread. {row['machine']},\ntorch {row['torch']}, float32.\n"
        "Plain dense: nothing hidden, channels last\nin memory."
    )


if __name__ == "__main__":
    main()
