# SPDX-License-Identifier: Apache-2.0
"""Run every workflow for a few steps on a GPU and compare its first losses with the CPU's.

    python -m benchmarks.gpu_check                # CPU against GPU, in float32 and in mixed precision
    python -m benchmarks.gpu_check --device cpu   # the same comparison without a GPU: CPU against itself

Exit status: 0 all agree, 1 some do not, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import torch
from ignite.engine import Events

from benchmarks.bundle import make_workflow

STEPS = 4
# Largest relative difference of a loss: rounding in float32 grows over the steps, mixed precision keeps ten bits.
TOLERANCE = {False: 2e-3, True: 5e-2}
SMALL = {"max_epochs": 1, "batch_size": 4, "num_workers": 0, "backbone": "resnet18_narrow", "seed": 0}
WORKFLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain 2D": ("pretrain", {"dataset_dir": "phantom:brain_mri_2d", "image_size": [64, 64]}),
    "pretrain 2D, SparK's decoder": (
        "pretrain",
        {"dataset_dir": "phantom:brain_mri_2d", "image_size": [64, 64], "decoder": "spark", "cell_size": 32},
    ),
    "pretrain 3D": ("pretrain", {"dataset_dir": "phantom:brain_mri_3d", "image_size": [32, 32, 32]}),
    "classify 2D": ("classify", {"dataset_dir": "phantom:brain_mri_2d", "image_size": [64, 64], "encoder": None}),
}


def main() -> int:
    """Compare all workflows; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device to compare with the CPU")
    parser.add_argument("--only", default="", help="run the workflows whose name contains this")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No GPU here: nothing was compared. Try --device cpu to see what this script does.")
        return 2
    chosen = {name: workflow for name, workflow in WORKFLOWS.items() if arguments.only in name}
    agreements = [compare(name, *workflow, device) for name, workflow in chosen.items()]
    return 0 if all(agreements) else 1


def compare(name: str, config: str, overrides: dict[str, Any], device: torch.device) -> bool:
    """Print the first losses on both devices; return whether they agree."""
    expected = first_losses(config, overrides, torch.device("cpu"), amp=False)
    agree = True
    for amp in (False, True) if device.type == "cuda" else (False,):
        measured = first_losses(config, overrides, device, amp)
        worst = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(expected, measured, strict=True))
        agree &= worst <= TOLERANCE[amp]
        losses = " ".join(f"{a:.5f}/{b:.5f}" for a, b in zip(expected, measured, strict=True))
        print(f"{name}, {device}, amp {amp}: cpu/device {losses}; worst {worst:.1e}, allowed {TOLERANCE[amp]:.0e}")
    return agree


def first_losses(config: str, overrides: dict[str, Any], device: torch.device, amp: bool) -> list[float]:
    """Losses of the first steps of a workflow."""
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        options = {**SMALL, **overrides, "device": device, "amp": amp, "output_dir": folder}
        workflow = make_workflow(config, **options)
        trainer = workflow.parser.get_parsed_content("train#trainer")

        @trainer.on(Events.ITERATION_COMPLETED)
        def record(engine: Any) -> None:
            losses.append(float(engine.state.output["loss"]))
            if len(losses) == STEPS:
                engine.terminate()

        workflow.run()
    return losses


if __name__ == "__main__":
    sys.exit(main())
