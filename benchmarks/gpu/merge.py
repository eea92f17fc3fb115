# SPDX-License-Identifier: Apache-2.0
"""Merge the results of any number of calls into one table.

    python -m benchmarks.gpu.merge FILE_OR_FOLDER ...

Writes ``gpu_study.csv``, every run, and ``gpu_study.md``, mean and spread over the seeds for every arm that is planned,
whatever it gave. A run that came back twice counts once: the one that was finished first. Runs of one arm that were
made with different settings or data are refused.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_look import FIGURES, INTERVAL, mean_and_spread
from benchmarks.gpu.results import Result, read_results
from benchmarks.gpu.settings import SETTINGS, Run, Settings, load_settings, planned

COLUMNS = (
    *("dataset", "evaluation", "arm", "seed", *FIGURES, *INTERVAL, "val_macro_auroc"),
    *("hidden_ratio", "pretraining_seconds", "pretraining_images_per_second", "seconds", "device", "code", "finished"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge and write the tables; return 1 if the results do not go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="result files (.json, .jsonl), or folders of them")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="the study's settings: what is planned")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="where the tables go")
    given = parser.parse_args(arguments)
    settings = load_settings(given.settings)
    try:
        results = merge(settings, read_results(given.results))
    except ValueError as error:
        print(error)
        return 1
    write_tables(settings, results, given.output)
    print(f"{progress(settings, results)}: {given.output / 'gpu_study.md'}.")
    return 0


def merge(settings: Settings, results: Iterable[Result]) -> dict[Run, Result]:
    """Return the results of the plan's runs, in its order, each once.

    Raises:
        ValueError: a result that is not planned, or runs that go together but were made with different settings.
    """
    ordered = sorted(results, key=lambda each: each["finished"])
    check_settings(ordered)
    by_name: dict[str, Result] = {}
    for result in ordered:
        by_name.setdefault(result["name"], result)
    known = {run.name: run for run in planned(settings)}
    unknown = sorted(by_name.keys() - known.keys())
    if unknown:
        raise ValueError(f"Not planned: {', '.join(unknown)}. Give the --settings that they were made with.")
    return {run: by_name[name] for name, run in known.items() if name in by_name}


def check_settings(results: Sequence[Result]) -> None:
    """Refuse runs of one set, arm and evaluation whose settings differ in more than the seed."""
    first: dict[tuple[str, str, str], Result] = {}
    for result in results:
        other = first.setdefault((result["dataset"], result["arm"], result["evaluation"]), result)
        if result["settings"] != other["settings"]:
            raise ValueError(
                f"{other['name']} and {result['name']} were made with different settings, so that they are no "
                f"repetitions of each other: {differences(other, result)}. Leave one of them out."
            )


def differences(one: Result, other: Result) -> str:
    """The settings in which two results differ."""
    left, right = flat(one["settings"]), flat(other["settings"])
    names = sorted(name for name in left | right if left.get(name) != right.get(name))
    return ", ".join(f"{name} ({left.get(name)} and {right.get(name)})" for name in names)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names such as `pretrain/batch_size`."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    return {
        name: value
        for key, inner in settings.items()
        for name, value in flat(inner, f"{prefix}/{key}" if prefix else str(key)).items()
    }


def progress(settings: Settings, results: dict[Run, Result]) -> str:
    """How many planned runs are finished, and how many are missing."""
    runs = planned(settings)
    missing = {name: sum(run.dataset == name and run not in results for run in runs) for name in settings["sets"]}
    listed = ", ".join(f"{count} of {name}" for name, count in missing.items() if count)
    return f"{len(results)} of {len(runs)} planned runs; still missing: {listed or 'none'}"


def write_tables(settings: Settings, results: dict[Run, Result], folder: Path) -> None:
    """Write the table of all runs and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "gpu_study.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(run, result) for run, result in results.items())
    (folder / "gpu_study.md").write_text(markdown(settings, results))


def row(run: Run, result: Result) -> dict[str, Any]:
    """One run as a line of the table."""
    test, pretraining = result["test"], result["pretraining"] or {}
    low, high = test["intervals"]["macro_auroc"]
    history = pretraining.get("history") or [{}]
    return {
        **{"dataset": run.dataset, "evaluation": run.evaluation, "arm": run.arm, "seed": run.seed},
        **{figure: test[figure] for figure in FIGURES},
        **dict(zip(INTERVAL, (low, high), strict=True)),
        "val_macro_auroc": result["val"]["macro_auroc"],
        "hidden_ratio": history[-1].get("hidden_ratio"),
        "pretraining_seconds": pretraining.get("seconds"),
        "pretraining_images_per_second": pretraining.get("images_per_second"),
        **{"seconds": result["seconds"], "device": result["device"], "finished": result["finished"]},
        "code": result["versions"]["code"],
    }


def markdown(settings: Settings, results: dict[Run, Result]) -> str:
    """The summary: for every set and evaluation a line an arm."""
    common, pretrain = settings["common"], settings["pretrain"]
    passes = pretrain["passes"] * pretrain["max_epochs"]
    size, cell = common["image_size"][0], pretrain["cell_size"]
    lines = [
        "# A study on one GPU",
        "",
        f"{progress(settings, results)}.",
        "",
        "Test scans; mean ± standard deviation over the seeds, in per cent. In brackets: 95 % bootstrap interval of",
        "one run, averaged over the seeds. *hidden*: share of the cells that pretraining hid.",
        f"{common['backbone']}, {size} px, cells of {cell} px; pretraining: {passes} passes over the scans unless",
        "`benchmarks/gpu/study.yaml` says otherwise of a set. Every run: `gpu_study.csv`. Made by",
        "`python -m benchmarks.gpu.study` and `python -m benchmarks.gpu.merge`.",
    ]
    for dataset in settings["sets"]:
        lines += ["", f"## {dataset}", "", *table(settings, dataset, results)]
    return "\n".join([*lines, "", *origin(results)]) + "\n"


def table(settings: Settings, dataset: str, results: dict[Run, Result]) -> list[str]:
    """The lines of one set; arms without a run have one too."""
    lines = [
        "| evaluation | pretraining | hidden | runs | accuracy | balanced accuracy | macro AUROC |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for evaluation in settings["evaluations"]:
        for arm in settings["arms"]:
            rows = [
                row(run, result)
                for run, result in results.items()
                if (run.dataset, run.evaluation, run.arm) == (dataset, evaluation, arm)
            ]
            lines.append(f"| {evaluation} | {arm} | {' | '.join(cells(rows))} |")
    return lines


def cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Share of hidden cells, number of runs, and figures over the seeds."""
    if not rows:
        return ["", "0", "", "", ""]
    hidden = [float(each["hidden_ratio"]) for each in rows if each["hidden_ratio"] is not None]
    figures = [mean_and_spread([each[figure] for each in rows]) for figure in FIGURES]
    low, high = (100 * statistics.fmean(each[bound] for each in rows) for bound in INTERVAL)
    share = f"{100 * statistics.fmean(hidden):.0f} %" if hidden else ""
    return [share, str(len(rows)), *figures[:-1], f"{figures[-1]} [{low:.1f}, {high:.1f}]"]


def origin(results: dict[Run, Result]) -> list[str]:
    """What the results were made on and with: more than one line means that they are not quite alike."""
    if not results:
        return []
    made = Counter((each["device"], json.dumps(each["versions"], sort_keys=True)) for each in results.values())
    lines = [
        f"- {count} runs: {device}; {', '.join(f'{name} {version}' for name, version in json.loads(versions).items())}"
        for (device, versions), count in made.items()
    ]
    return ["Made on and with (*code*: hash of `custom`, `datasets` and the configs):", "", *lines]


if __name__ == "__main__":
    sys.exit(main())
