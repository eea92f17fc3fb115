# SPDX-License-Identifier: Apache-2.0
"""The gate of the localizers that need no weights, on real scans: who heeds the prompt, and who only seems to find it.

    python -m benchmarks.gate --data $MWM_DATA

Writes ``benchmarks/results/gate.csv`` and ``.md``. Scans of the split val, which the vocabulary's operators were looked
at with, too; the gate itself uses no label, and the last columns are only there to compare its verdict with the truth.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import write_table
from custom.gate import PromptGate
from custom.workflows import GateRun, load_localizer
from custom.workflows.gate_setup import in_values, other_loaders, phrases_of, scan_loaders
from datasets.datalist import load_datalist
from datasets.loading import LoadScand

CONFIGS = Path(__file__).resolve().parents[1] / "bundle" / "configs"
RESULTS = Path(__file__).resolve().parent / "results"
TASKS = (
    ("brain_mri_cheng", "brain tumor", None),
    ("cxr_lungs", "lungs", None),
    ("cxr_lungs", "left lung", [2]),
    ("ct_lidc_nodules", "lung nodule on CT", [2, 3, 4]),
    ("hippocampus3d", "hippocampus", None),
    ("ct3d_lidc_nodules", "lung nodule on CT", None),
    # Asked for what these scans do not show.
    ("cxr_lungs", "brain tumor", None),
    ("brain_mri_cheng", "left lung", None),
)
EXPLANATION = """\
Eight scans of the split val a set, three phrases a kind, scans of other body parts from the generated sets; regions at
probability 0.5. *sensitivity*: 1 - similarity with maps of foreign phrases; *stability*: similarity with maps of
phrases that mean the same; *heeding*: how often the latter lie nearer than the former (0.5: the words do not matter);
*presence*: how often a scan scores higher than one of another body part. The gate sees no label. *hit*, *dice* (against
mask or box; of a prompt for something else, against that set's target) are there to compare its verdict with.

A gate says whether the words decide the map, not whether the map is right. The last two targets are not on the scans at
all: the localizer heeds those words, too, and what the gate has against it, other scans scoring as high, is weak where
the sets differ in more than the body part."""


def main() -> None:
    """Run all gates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--localizers", nargs="+", default=["concept", "disc", "body"], help="names or paths")
    parser.add_argument("--scans", type=int, default=8, help="scans a set")
    arguments = parser.parse_args()
    logging.getLogger("custom").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = list(gates(arguments))
    write_table(rows, RESULTS / "gate", f"# The gate: {', '.join(arguments.localizers)}\n\n{EXPLANATION}\n")


def gates(arguments: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Yield a row a target and localizer."""
    for dataset, prompt, values in TASKS:
        for name in arguments.localizers:
            gate = run(arguments.data / dataset, prompt, values, name, arguments.scans)
            print(dataset, prompt, name, gate.verdict, flush=True)
            yield row(dataset, prompt, name, gate)


def run(folder: Path, prompt: str, values: list[int] | None, name: str, count: int) -> PromptGate:
    """Run one gate."""
    datalist = load_datalist(folder)
    dims, library = datalist.spatial_dims, CONFIGS / "prompts"
    load = LoadScand("image", dims, label_keys="mask", allow_missing_keys=True)
    with tempfile.TemporaryDirectory() as output:
        record = GateRun(
            load_localizer(CONFIGS, name, spatial_dims=dims),
            [prompt],
            phrases_of([prompt], library, 3),
            scan_loaders(datalist.split("val"), load, count),
            output,
            elsewhere=other_loaders([prompt], library, 4, dims),
            dataset=folder.name,
            target=in_values(values),
            max_minutes=60,
        ).run()
    if record is None:
        raise SystemExit(f"{name} is too slow for its gate.")
    return record.prompts[prompt]


def row(dataset: str, prompt: str, name: str, gate: PromptGate) -> dict[str, str]:
    """One line of the table."""
    measures = gate.measures
    truth = measures["truth"] or {}
    figures: dict[str, Any] = {
        **{key: measures[key] for key in ("sensitivity", "stability", "heeding", "presence", "found", "coverage")},
        **{key: truth.get(key) for key in ("hit", "dice")},
    }
    shown = {key: "" if value is None else f"{value:.2f}" for key, value in figures.items()}
    return {"dataset": dataset, "prompt": prompt, "localizer": name, "verdict": gate.verdict, **shown}


if __name__ == "__main__":
    main()
