# SPDX-License-Identifier: Apache-2.0
"""Where the time of one pretraining step goes, in words, and whether two processes load data fast enough for it.

    python -m benchmarks.speed.profile_step

A step is cut where the encoder hands its maps to the decoder, forward and backward, so that each part can be timed; the
computation is that of a whole step. Results: ``benchmarks/results/profile.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.bundle import make_workflow
from benchmarks.speed.cases import Case, Plan
from benchmarks.speed.contenders.ours import OurTrainingStep
from benchmarks.speed.contenders.work import Masks
from benchmarks.speed.rounds import processor
from benchmarks.speed.worker import build, random_images, random_masks
from custom.losses import MIMTarget
from custom.networks import Visibility
from custom.networks.packed.rows import Rows
from custom.networks.packed.sites import Sites, Stencil

# Comparison and contender of cases.yaml, and the batch and masked share that are profiled.
PROFILED = {
    "2D: ResNet-50, 224 px, batch 8": ("ResNet-50 whole step at 224 px", "ours, thin decoder", 8, 0.6),
    "3D: DynUNet, 64 voxels, batch 2": ("3D whole step at 64 voxels, beside AnatoMask", "ours, DynUNet", 2, 0.6),
}
PARTS = ("tables", "encoder", "decoder", "loss", "optimizer")
# What torch calls the operations inside the encoder.
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm_", "linear", "convolution", "convolution_backward"}
GATHERING = {
    "index_select", "index", "index_copy", "index_copy_", "gather", "scatter_add_", "embedding_bag", "_embedding_bag",
    "cat", "copy_", "fill_", "zero_", "constant_pad_nd",
}  # fmt: skip
POOLING = ("_MaxPool", "_SumPool")
WORDS = {
    "matrix products": "the convolutions' arithmetic, forward and backward",
    "gathering": "copying neighbours side by side for these products, gradients back",
    "pooling": "largest value of each window",
    "normalisation": "normalisation, activations and the sums of residual blocks",
    "tables": "finding each position's neighbours, once a mask, for encoder and decoder",
    "decoder": "all of it but its tables",
    "loss": "on hidden cells",
    "optimizer": "clipping of gradients, update of all parameters",
    "rest": "Python, and whatever lies between the operations",
}


def main() -> None:
    """Profile the steps, time the loading, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="profiled steps; the table shows their mean")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    profiles = {
        name: profile_steps(profiled_case(*chosen), arguments.steps, arguments.threads)
        for name, chosen in PROFILED.items()
    }
    loading = time_loading(batch_size=8, image_size=224)
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / "profile.md"
    file.write_text(markdown(profiles, loading, arguments.threads), encoding="utf-8")
    print(file.read_text(encoding="utf-8"))


def profiled_case(comparison: str, contender: str, batch: int, masked: float) -> Case:
    """The case of ``cases.yaml`` at a given size."""
    plan = Plan.read()
    chosen = next(each for each in plan.comparisons if each.name == comparison)
    setting = next(chosen.settings(threads=1))
    return plan.case(chosen, replace(setting, batch=batch, masked=masked), contender, "cpu", counted=False)


def profile_steps(case: Case, steps: int, threads: int) -> dict[str, float]:
    """Milliseconds of each kind of work in one step, mean over some steps with masks of their own."""
    case = replace(case, threads=threads)
    torch.manual_seed(case.seed)
    work, image = build(case), random_images(case)
    work.step(image, random_masks(case, 0))
    totals: Counter[str] = Counter()
    for index in range(1, steps + 1):
        masks = random_masks(case, index)
        with named_tables(), profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("step"):
            step_in_parts(work, image, masks)
        totals.update(milliseconds(profiler.events()))
    return {kind: totals[kind] / steps for kind in WORDS}


@contextmanager
def named_tables() -> Iterator[None]:
    """Give whatever makes a table a name in profiles, wherever in a step it happens (most are made when asked for)."""
    kept = [(each, each.func) for owner in (Sites, Stencil) for each in vars(owner).values() if _is_cached(each)]
    start = Sites.__init__
    try:
        for each, function in kept:
            each.func = record_function("tables")(function)
        Sites.__init__ = record_function("tables")(start)  # type: ignore[method-assign]
        yield
    finally:
        for each, function in kept:
            each.func = function
        Sites.__init__ = start  # type: ignore[method-assign]


def _is_cached(attribute: Any) -> bool:
    return isinstance(attribute, cached_property)


def step_in_parts(work: OurTrainingStep, image: Tensor, masks: Masks) -> None:
    """One training step, cut into named parts."""
    with record_function("optimizer"):
        work.optimizer.zero_grad(set_to_none=True)
    with record_function("encoder"):
        visibility = Visibility(masks.host, work.encoder.spatial_dims)
        maps = work.encoder.encode(image, visibility)
    handed_over = [Rows(each.values.detach().requires_grad_(), each.sites) for each in maps]
    with record_function("decoder"):
        prediction = work.decoder(handed_over, visibility, Visibility(~masks.host, work.encoder.spatial_dims))
    with record_function("loss"):
        loss = work.criterion(prediction, MIMTarget(image, masks.device))
        (gradient,) = torch.autograd.grad(loss, prediction)
    with record_function("decoder"):
        prediction.backward(gradient)
    with record_function("encoder"):
        torch.autograd.backward([each.values for each in maps], [each.values.grad for each in handed_over])
    with record_function("optimizer"):
        torch.nn.utils.clip_grad_norm_(work.network.parameters(), work.max_norm)
        work.optimizer.step()


def milliseconds(events: Iterable[Any]) -> Counter[str]:
    """Sum the events' own time by kind of work."""
    totals: Counter[str] = Counter()
    for event in events:
        above = list(ancestry(event))
        if "step" in above:
            totals[kind_of(above)] += event.self_cpu_time_total / 1000
    return totals


def ancestry(event: Any) -> Iterable[str]:
    """Names of an event and of all that it happened in."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def kind_of(names: list[str]) -> str:
    """The kind of work of an event, from its name and the names around it."""
    part = next((name for name in names if name in PARTS), "rest")  # the innermost: tables lie in other parts
    if part != "encoder":
        return part
    operation = names[0].removeprefix("aten::")
    if not names[0].startswith("aten::"):
        return "rest"
    if any(name.startswith(POOLING) for name in names) or "max_pool" in operation:
        return "pooling"
    if operation in PRODUCTS:
        return "matrix products"
    return "gathering" if operation in GATHERING else "normalisation"


def time_loading(batch_size: int, image_size: int) -> dict[str, float]:
    """Seconds a batch of pretrain.yaml's transforms takes: in two processes that do nothing else, and in this one."""
    with tempfile.TemporaryDirectory() as folder:
        workflow = make_workflow(
            "pretrain",
            dataset_dir="phantom:brain_mri_2d",
            image_size=[image_size, image_size],
            cell_size=32,
            batch_size=batch_size,
            num_workers=2,
            output_dir=folder,
            device=torch.device("cpu"),
        )
        loader = workflow.parser.get_parsed_content("train#dataloader")
        epochs = []
        for _ in range(3):
            start = time.perf_counter()
            batches = sum(1 for _ in loader)
            epochs.append((time.perf_counter() - start) / batches)
        start = time.process_time()
        for index in range(batch_size):
            loader.dataset[index]
        return {"two": min(epochs), "cpu": time.process_time() - start, "batches": batches}


def markdown(profiles: Mapping[str, Mapping[str, float]], loading: Mapping[str, float], threads: int) -> str:
    """The table of parts, and what it says about loading."""
    head = ["what", "", *(f"{name}: ms | share" for name in profiles)]
    totals = {name: sum(parts.values()) for name, parts in profiles.items()}
    lines = [
        "# Where the time of a pretraining step goes",
        "",
        f"Made by `python -m benchmarks.speed.profile_step` on {processor()}, torch {torch.__version__}, threads: "
        f"{threads}. Packed execution, thin decoder, AdamW, 60 % of the cells hidden (2D: of 32 px, 3D: of 16 voxels), "
        "random images. Wall time of the main thread under torch's profiler, which slows a step down a little. "
        "The first four rows are the encoder.",
        "",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * (2 + 2 * len(profiles)),
    ]
    for kind, words in WORDS.items():
        cells = (f"{parts[kind]:.0f} | {parts[kind] / totals[name]:.0%}" for name, parts in profiles.items())
        lines.append(f"| {kind} | {words} | {' | '.join(cells)} |")
    lines.append(f"| **all** | | {' | '.join(f'**{total:.0f}** | 100%' for total in totals.values())} |")
    return "\n".join([*lines, "", loading_words(loading, next(iter(totals.values())))]) + "\n"


def loading_words(loading: Mapping[str, float], step: float) -> str:
    """Say whether two loading processes keep up with a step of so many milliseconds."""
    two, cpu = 1000 * loading["two"], 1000 * loading["cpu"]
    return (
        "**Loading.** With the transforms of `pretrain.yaml` on generated scans at 224 px, two loading processes that "
        f"have the cores to themselves deliver a batch of 8 every {two:.0f} ms (epochs of {loading['batches']:.0f} "
        f"batches, their start included); the 2D step above takes {step:.0f} ms: two processes "
        f"{'keep up' if two <= step else 'do not keep up'}. A batch costs {cpu:.0f} ms of one core, {cpu / step:.1%} "
        "of the step's duration; without loading processes (`num_workers: 0`) that is added to it."
    )


if __name__ == "__main__":
    main()
