# SPDX-License-Identifier: Apache-2.0
"""What is a pretrained encoder worth for detection, instance segmentation and segmentation?

From scratch against random and region masks, several seeds, on real sets, through the very configs that users run. Every
finished run is kept; started again, the command goes on where it stopped.

    python -m benchmarks.downstream --data $MWM_DATA --output output/downstream
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.first_look import localize, run, run_folder

logger = logging.getLogger("downstream")


def main() -> None:
    """Run what is missing."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    study = ConfigParser.load_config_file(str(arguments.settings))
    for name in arguments.sets or study["sets"]:
        for seed in study["seeds"]:
            for arm in study["arms"]:
                pretrain(study, name, arm, seed, Path(arguments.data) / name, Path(arguments.output) / name)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--output", default="output/downstream", help="where runs are kept")
    parser.add_argument("--settings", default=Path(__file__).with_suffix(".yaml"), help="what is compared")
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MWM_DATA")
    return arguments


def pretrain(study: Mapping[str, Any], name: str, arm: str, seed: int, dataset: Path, output: Path) -> str | None:
    """Pretrain one arm with one seed, unless that was done; return its encoder (none: without pretraining)."""
    arguments = study["arms"][arm]
    if arguments is None:
        return None
    settings = study["sets"][name]
    folder = run_folder(output, arm, seed)
    encoder = folder / "encoder.safetensors"
    if not encoder.is_file():
        prompt = settings["prompt"]
        regions = localize(prompt, dataset, output / "regions") if arguments["masking"].startswith("region") else {}
        options = {**settings["common"], **study["pretrain"], **settings["pretrain"], **arguments, **regions}
        if regions:
            options["prompt"] = prompt
        run("pretrain", **options, seed=seed, dataset_dir=str(dataset), output_dir=str(folder), resume=True)
    return str(encoder)


if __name__ == "__main__":
    main()
