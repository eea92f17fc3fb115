# SPDX-License-Identifier: Apache-2.0
"""Time, memory and multiply-adds of what one process does."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

PROC_STAT = Path("/proc/stat")


def time_on_cpu(calls: list[Callable[[], Any]]) -> dict[str, Any]:
    """Time calls one by one.

    Returns:
        Medians ``cpu_s`` (user and system, of all threads) and ``wall_s``, and ``others``: how many processors the rest
        of the machine kept busy meanwhile (None where that cannot be known).
    """
    cpu, wall, others = [], [], []
    for call in calls:
        busy, start_cpu, start = machine_seconds(), cpu_seconds(), time.perf_counter()
        call()
        wall.append(time.perf_counter() - start)
        cpu.append(cpu_seconds() - start_cpu)
        if busy is not None:
            others.append(max(0.0, machine_seconds() - busy - cpu[-1]) / wall[-1])
    load = round(statistics.fmean(others), 2) if others else None
    return {"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall), "others": load}


def time_on_cuda(calls: list[Callable[[], Any]]) -> dict[str, Any]:
    """Time calls in one stream of work, as in training: the host may run ahead, it is not stopped between them.

    Returns:
        Median ``wall_s`` between the events that follow the calls on the GPU, and ``cpu_s``, the host's mean.
    """
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    torch.cuda.synchronize()
    start_cpu = cpu_seconds()
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    torch.cuda.synchronize()
    cpu = (cpu_seconds() - start_cpu) / len(calls)
    milliseconds = [first.elapsed_time(second) for first, second in pairwise(events)]
    return {"cpu_s": cpu, "wall_s": statistics.median(milliseconds) / 1000, "others": None}


def cpu_seconds() -> float:
    """User and system seconds of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine_seconds() -> float | None:
    """Seconds that all processors of the machine were busy so far; None where that cannot be read."""
    if not PROC_STAT.is_file():
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, *_ = map(int, PROC_STAT.read_text().split(None, 9)[1:8])
    return (user + nice + system + interrupts + soft) / 100  # the kernel reports hundredths, whatever its own clock


def peak_megabytes(device: str) -> float:
    """Largest memory so far: of the process, or of its tensors on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


@contextmanager
def multiply_adds() -> Iterator[Callable[[], int]]:
    """Count the multiply-adds of convolutions and matrix products, forward and backward.

    Yields:
        A function that returns the number so far.
    """
    # Products that are added in place are no functions of their own to torch's counter.
    in_place = {torch.ops.aten.addmm_: _addmm, torch.ops.aten.baddbmm_: _baddbmm}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        yield lambda: counter.get_total_flops() // 2


def _addmm(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _baddbmm(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * left[2] * right[2]
