# SPDX-License-Identifier: Apache-2.0
"""Generated scans as a folder of files: `python -m datasets.phantoms brain_mri_2d --root example`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from datasets.phantoms.sample import KINDS
from datasets.phantoms.writer import SPLITS, ensure_phantoms

NAMES = {f"{kind}_{dims}d": (kind, dims) for kind, all_dims in KINDS.items() for dims in all_dims}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder `<root>/<name>`, or leave it where it is already as asked for, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m datasets.phantoms", description="Write generated scans to disk.")
    parser.add_argument("name", choices=NAMES, help="what is scanned, and whether slices or volumes")
    parser.add_argument("--root", default="phantoms", help="folder of all generated sets (default: %(default)s)")
    parser.add_argument("--counts", nargs=3, type=int, metavar=("TRAIN", "VAL", "TEST"), help="scans of each split")
    parser.add_argument("--size", type=int, help="voxels an axis")
    parser.add_argument("--seed", type=int, default=0, help="of the whole set (default: %(default)s)")
    given = parser.parse_args(arguments)
    counts = dict(zip(SPLITS, given.counts, strict=True)) if given.counts else None
    kind, dims = NAMES[given.name]
    try:
        folder = ensure_phantoms(kind, dims, given.root, size=given.size, counts=counts, seed=given.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{folder}: images/, masks/ and manifest.csv\n")


if __name__ == "__main__":
    main()
