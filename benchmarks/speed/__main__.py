# SPDX-License-Identifier: Apache-2.0
"""Compare speed and memory with peers and with the plain dense network.

    python -m benchmarks.speed --spark SPARK --anatomask ANATOMASK --nnssl NNSSL --site SITE
    python -m benchmarks.speed --quick            # small and once, to output/speed, to see that everything runs
    python -m benchmarks.speed --device cuda ...  # the same on a GPU, larger batches

``SPARK``, ``ANATOMASK`` and ``NNSSL`` are checkouts of https://github.com/keyu-tian/SparK (tried at a63e386),
https://github.com/ricklisz/AnatoMask (c61b6d9) and https://github.com/MIC-DKFZ/nnssl (7044864); ``SITE`` is a folder of
packages that they need: ``pip install --no-deps --target SITE timm==0.5.4 dynamic-network-architectures==0.4.4 einops
pytz``. A peer that is not given is skipped and said to be. What is compared: ``benchmarks/speed/cases.yaml``. Results:
``benchmarks/results/speed.csv`` and ``.md``, written after every setting; what is measured again replaces its rows.
Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.speed.cases import CASES, Plan
from benchmarks.speed.rounds import PEERS, Launcher, Row, measure_comparison
from benchmarks.speed.tables import markdown, merge, read_rows, write_rows


def main() -> None:
    """Measure what is asked for, and write the tables."""
    arguments = parse_arguments()
    plan = make_plan(arguments)
    if not arguments.tables_only:
        launcher = Launcher({peer: getattr(arguments, peer) for peer in PEERS}, arguments.site)
        measure(plan, arguments, launcher)
    write_tables(plan, [], arguments)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", help=f"checkout of {peer}")
    parser.add_argument("--site", help="folder of the old packages that the peers need")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of every process")
    parser.add_argument("--rounds", type=int, help="how often the models take turns (cases.yaml says how often)")
    parser.add_argument("--steps", type=int, help="timed steps of a process (likewise)")
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small, once, to output/speed unless --results says where")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, write the tables again")
    parser.add_argument("--cases", type=Path, default=CASES, help="another file like cases.yaml")
    parser.add_argument("--results", type=Path, help="where the tables go (benchmarks/results)")
    arguments = parser.parse_args()
    if arguments.results is None:
        arguments.results = Path("output/speed" if arguments.quick else "benchmarks/results")
    return arguments


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Read the cases, with what the command line changes."""
    plan = Plan.read(arguments.cases, arguments.quick, arguments.device)
    asked = {name: getattr(arguments, name) for name in ("rounds", "steps") if getattr(arguments, name)}
    return replace(plan, **asked)


def measure(plan: Plan, arguments: argparse.Namespace, launcher: Launcher) -> None:
    """Measure every setting of the comparisons that are asked for."""
    for comparison in plan.comparisons:
        if arguments.only not in comparison.name:
            continue
        for setting in comparison.settings(arguments.threads):
            rows = []
            for row in measure_comparison(plan, comparison, setting, arguments.device, launcher):
                print(report(row), flush=True)
                rows.append(row)
            write_tables(plan, rows, arguments)


def report(row: Row) -> str:
    """One line about a measurement."""
    what = f"{row['comparison']}, batch {row['batch']}, {row['masked']:.0%} hidden, {row['threads']} threads"
    if row.get("problem"):
        return f"{what}: {row['contender']}: {row['problem']}"
    figures = f"{row['cpu_s']:.3f} CPU s, {row['wall_s']:.3f} wall s, {row['peak_mb']:.0f} MB"
    return f"{what}: {row['contender']}: {figures} (others {row['others']})"


def write_tables(plan: Plan, rows: list[Row], arguments: argparse.Namespace) -> None:
    """Write both tables, with the rows that are there already."""
    file = arguments.results / "speed.csv"
    everything = merge(read_rows(file), rows)
    write_rows(file, everything)
    # Bars are those of the CPU whatever was measured last.
    comparisons = Plan.read(arguments.cases, arguments.quick).comparisons
    file.with_suffix(".md").write_text(markdown(comparisons, everything, arguments.threads), encoding="utf-8")


if __name__ == "__main__":
    main()
