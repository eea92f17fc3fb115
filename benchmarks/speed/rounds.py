# SPDX-License-Identifier: Apache-2.0
"""Measuring comparisons: one process a measurement, contenders taking turns."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Case, Comparison, Plan, Setting

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("spark", "anatomask", "nnssl")
Row = dict[str, Any]


def measure_comparison(
    plan: Plan, comparison: Comparison, setting: Setting, device: str, run: Callable[[Case], Row]
) -> Iterator[Row]:
    """Yield one row for each measurement of a setting, as soon as it is made.

    Args:
        plan: how often, how long.
        comparison: who takes part.
        setting: the size.
        device: ``cpu`` or ``cuda``.
        run: makes a measurement; a row with ``problem`` says why there is none, and is not tried again.
    """
    shared = describe(comparison, setting, device)
    given_up = set()
    for turn in range(plan.rounds):
        for name in comparison.contenders:
            if name in given_up:
                continue
            row = run(plan.case(comparison, setting, name, device, counted=turn == 0))
            if row.get("problem"):
                given_up.add(name)
            yield {**shared, "contender": name, "round": turn, **row}


def describe(comparison: Comparison, setting: Setting, device: str) -> Row:
    """What all rows of a setting have in common."""
    size = "x".join(map(str, setting.image_size))
    return {
        "comparison": comparison.name,
        "device": device,
        "threads": setting.threads,
        "image_size": size,
        "batch": setting.batch,
        "masked": setting.masked,
    }


class Launcher:
    """Starts workers.

    Args:
        peers: name of a peer -> its checkout; peers without one are skipped.
        site: folder of the old packages that peers need.
    """

    def __init__(self, peers: Mapping[str, str | None], site: str | None) -> None:
        self.peers = {name: os.path.abspath(path) for name, path in peers.items() if path}
        self.site = os.path.abspath(site) if site else None

    def __call__(self, case: Case) -> Row:
        """Return what a worker reports, or ``problem``."""
        if case.module in PEERS:
            missing = self._missing(case.module)
            if missing:
                return {"problem": f"skipped: {missing}"}
            case = replace(case, options={**case.options, "path": self.peers[case.module], "site": self.site})
        return {**launch(case), "machine": processor()}

    def _missing(self, peer: str) -> str | None:
        for option, path in ((peer, self.peers.get(peer)), ("site", self.site)):
            if path is None or not Path(path).is_dir():
                return f"--{option} is not given" if path is None else f"--{option} names no folder"
        return None


def launch(case: Case) -> Row:
    """Measure one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.worker", "--case", case.as_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": f"failed: {_reason(done)}"}
    report: Row = json.loads(done.stdout)
    gpu = report.pop("gpu")
    return {**report, "gpu": gpu or ""}


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"  # SIGKILL: most likely out of memory
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]


def processor() -> str:
    """Name of the processor and number of cores."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
