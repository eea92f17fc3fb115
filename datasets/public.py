# SPDX-License-Identifier: Apache-2.0
"""Public sets, fetched by MONAI's own dataset classes and given a manifest with fixed splits.

``python -m datasets.public hippocampus --root DIR --download``
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from datasets.errors import ScanError
from datasets.readers.splits import split_by_hash

logger = logging.getLogger(__name__)

_BLOCK = {"hippocampus": 10, "mednist": 100}  # neighbouring numbers that stay in one split
_COLUMNS = ("file", "label", "split", "group", "mask")


def prepare_hippocampus(root: str | Path, download: bool = False, seed: int = 0) -> Path:
    """Prepare Task04 of the Medical Segmentation Decathlon: 260 labelled MR volumes of the hippocampus.

    Antonelli et al., Nature Communications 13:4128 (2022), CC BY-SA 4.0. Volumes 2k-1 and 2k are very likely the two
    sides of one person, and neighbouring pairs are alike: pairs are groups, and ten numbers stay in one split. The
    unlabelled volumes (``imagesTs``) are not listed.

    Args:
        root: folder that holds ``Task04_Hippocampus`` or its tar file, or receives them.
        download: whether to fetch what is missing (28 MB).
        seed: of the split.

    Returns:
        The folder, now with a manifest.csv: labels "hippocampus", masks 1 anterior and 2 posterior.

    Raises:
        ScanError: the folder is not there and was not to be fetched, or is not laid out as published.
    """
    from monai.apps import DecathlonDataset

    task = "Task04_Hippocampus"
    folder = Path(root) / task
    entries = _fetch(
        folder,
        lambda: DecathlonDataset(_made(root), task, "training", download=download, val_frac=0.0, cache_rate=0.0).data,
    )
    numbers = {str(entry["image"]): _number(entry["image"]) for entry in entries}
    splits = _split_blocks("hippocampus", numbers.values(), seed)
    rows = [
        (
            _relative(folder, entry["image"]),
            "hippocampus",
            splits[_block("hippocampus", numbers[str(entry["image"])])],
            f"pair{(numbers[str(entry['image'])] + 1) // 2:03d}",
            _relative(folder, entry["label"]),
        )
        for entry in entries
    ]
    return _write_manifest(folder, rows)


def prepare_mednist(root: str | Path, download: bool = False, seed: int = 0) -> Path:
    """Prepare MedNIST: 58954 pictures of 64 px in six classes (TCIA, RSNA Bone Age, NIH chest X-rays; CC BY-SA 4.0).

    No patients are published. A hundred neighbouring numbers of a class are a group and stay in one split, which
    lessens leaks between the splits but cannot rule them out.

    Args:
        root: folder that holds ``MedNIST`` or its tar.gz file, or receives them.
        download: whether to fetch what is missing (59 MB).
        seed: of the split.

    Returns:
        The folder, now with a manifest.csv.

    Raises:
        ScanError: the folder is not there and was not to be fetched, or is not laid out as published.
    """
    from monai.apps import MedNISTDataset

    folder = Path(root) / "MedNIST"
    make = partial(MedNISTDataset, section="training", download=download, val_frac=0.0, test_frac=0.0, cache_rate=0.0)
    entries = _fetch(folder, lambda: make(_made(root)).data)
    rows = []
    for label in sorted({entry["class_name"] for entry in entries}):
        files = sorted(str(entry["image"]) for entry in entries if entry["class_name"] == label)
        splits = _split_blocks("mednist", map(_number, files), seed)
        for file in files:
            block = _block("mednist", _number(file))
            rows.append((_relative(folder, file), label, splits[block], f"{label}-{block}", ""))
    return _write_manifest(folder, rows)


PREPARERS: dict[str, Callable[..., Path]] = {"hippocampus": prepare_hippocampus, "mednist": prepare_mednist}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Prepare the set that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m datasets.public", description="Prepare a public set.")
    parser.add_argument("name", choices=sorted(PREPARERS))
    parser.add_argument("--root", required=True, help="folder that holds the set, or receives it")
    parser.add_argument("--download", action="store_true", help="fetch it from the internet if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    given = parser.parse_args(arguments)
    return PREPARERS[given.name](given.root, download=given.download, seed=given.seed)


def _made(root: str | Path) -> Path:
    Path(root).mkdir(parents=True, exist_ok=True)
    return Path(root)


def _fetch(folder: Path, make: Callable[[], Sequence[dict]]) -> Sequence[dict]:
    try:
        entries = make()
    except (RuntimeError, OSError, ValueError) as error:  # not there; no network; a broken archive or list
        raise ScanError(folder, str(error).splitlines()[0], "Add --download, or copy the set here yourself") from error
    if not entries:
        raise ScanError(folder, "the set lists no scan", "Unpack it again")
    return entries


def _number(file: str | Path) -> int:
    found = re.search(r"(\d+)\.(nii\.gz|nii|jpeg|jpg|png)$", str(file))
    if found is None:
        raise ScanError(file, "its name has no number, by which the split is made", "Unpack the set again")
    return int(found.group(1))


def _block(name: str, number: int) -> str:
    size = _BLOCK[name]
    first = number - (number - 1) % size if name == "hippocampus" else number - number % size
    return f"{first:06d}"


def _split_blocks(name: str, numbers: Iterable[int], seed: int) -> dict[str, str]:
    return split_by_hash((_block(name, number) for number in numbers), seed)


def _relative(folder: Path, file: str | Path) -> str:
    return Path(file).resolve().relative_to(folder.resolve()).as_posix()


def _write_manifest(folder: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        writer.writerows(sorted(rows))
    logger.info("%s: %d scans. Use it with --dataset_dir %s", manifest, len(rows), folder)
    return folder


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
