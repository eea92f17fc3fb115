# SPDX-License-Identifier: Apache-2.0
"""One measurement: build a model, do some steps on random images, print what they cost as one line of JSON.

    python -m benchmarks.speed.worker --case JSON

``JSON`` is a :class:`benchmarks.speed.cases.Case`. Whatever models print goes to the error stream.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders.work import Masks, Work
from benchmarks.speed.meter import multiply_adds, peak_megabytes, time_on_cpu, time_on_cuda


def main() -> None:
    """Measure the case of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Case.from_json, required=True)
    case = parser.parse_args().case
    with contextlib.redirect_stdout(sys.stderr):
        report = measure(case)
    print(json.dumps(report))


def measure(case: Case) -> dict[str, Any]:
    """Build, warm up, time and count."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(case.seed)
    torch.backends.cudnn.benchmark = True  # sizes never change
    work = build(case)
    start = peak_megabytes(case.device)
    image, masks = random_images(case), [random_masks(case, index) for index in range(case.warmup + case.steps)]
    calls = [partial(work.step, image, each) for each in masks]
    for call in calls[: case.warmup]:
        call()
    times = (time_on_cuda if case.device == "cuda" else time_on_cpu)(calls[case.warmup :])
    report = {
        **times,
        "peak_mb": round(peak_megabytes(case.device), 1),
        "start_mb": round(start, 1),
        "parameters": sum(each.numel() for each in work.network.parameters() if each.grad is not None),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if case.device == "cuda" else None,
    }
    return {**report, **count(case, work, image, masks[case.warmup :])} if case.counted else report


def build(case: Case) -> Work:
    """Build the work of a case's contender."""
    work: Work = importlib.import_module(f"benchmarks.speed.contenders.{case.module}").build(case, **case.options)
    return work


def random_images(case: Case) -> Tensor:
    """A batch of noise, ``[B, C, *spatial]``: how long a step takes does not depend on what is in it."""
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randn((case.batch, case.channels, *case.image_size), generator=generator).to(case.device)


def random_masks(case: Case, index: int) -> Masks:
    """Masks of one step, with an exact number of visible cells in each image (as SparK draws them)."""
    cells = math.prod(case.grid)
    generator = torch.Generator().manual_seed(1000 * (case.seed + 1) + index)
    shown = torch.rand(case.batch, cells, generator=generator).argsort(dim=1)[:, : round(cells * (1 - case.masked))]
    visible = torch.zeros(case.batch, cells, dtype=torch.bool).scatter_(1, shown, True).reshape(-1, 1, *case.grid)
    return Masks(visible, visible.to(case.device))


def count(case: Case, work: Work, image: Tensor, masks: list[Masks]) -> dict[str, float]:
    """Count the multiply-adds of one more step and of its encoder; of ours also those that it would need."""
    with multiply_adds() as total:
        loss = float(work.step(image, masks[0]))
        counted = {"loss": loss, "multiply_adds": total()}
    encoder = getattr(work, "encoder", None)
    if encoder is None:
        with multiply_adds() as total, torch.no_grad():
            list(work.encode(image, masks[0]))
            return {**counted, "dense_forward": total()}
    return {**counted, **count_ours(case, encoder, image, masks)}


def count_ours(case: Case, encoder: Any, image: Tensor, masks: list[Masks]) -> dict[str, float]:
    """Count an encoder of ours alone, as executed and as a physical limit (mean over the masks that were timed)."""
    from benchmarks.speed.contenders.ours import OurEncoderWork
    from benchmarks.speed.need import encoder_need

    with multiply_adds() as total:
        OurEncoderWork(encoder).step(image, masks[0])
        executed = total()
    needs = [encoder_need(encoder, tuple(case.image_size), each.host) for each in masks]
    dense, block, submanifold = (sum(values) / len(needs) for values in zip(*(need for _, need in needs), strict=True))
    return {
        "encoder_multiply_adds": executed,
        "dense_forward": needs[0][0].dense,
        "dense": dense,
        "block": block,
        "submanifold": submanifold,
    }


if __name__ == "__main__":
    main()
