# SPDX-License-Identifier: Apache-2.0
"""Prepare what travels to a GPU: for each set an archive of pictures, manifest and region maps.

    python -m benchmarks.gpu.pack --data $MWM_DATA --output output/gpu_packed

The pictures are grey, at most as large as the study's `side`, and compressed. They are localized by localize.yaml as
they will be unpacked, and the maps cut at the study's `region_threshold`: 8 bits, 0 or 255. Only train and val have
maps, since pretraining sees no test scan. Started again, it goes on where it stopped. The same data, settings and
versions give the same bytes. Exit status 1: more than --limit-mib.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bundle import make_workflow
from benchmarks.gpu.archive import THREADS, manifest_bytes, map_file, unpack, write_archive
from benchmarks.gpu.settings import PRETRAINED_ON, SETTINGS, Settings, code_files, load_settings
from custom.regions import RegionStore
from datasets.decoding import upright

MIB = 2**20
Row = Mapping[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack all sets; return the exit status."""
    given = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = load_settings(given.settings)
    sizes = {name: pack_set(settings, name, given) for name in given.sets or settings["sets"]}
    sizes["code"] = sum(path.stat().st_size for path in code_files())
    problem = over_limit(sizes, given.limit_mib)
    print(problem or f"All that travels: {listed(sizes)}; the limit is {given.limit_mib:g} MiB.")
    return 1 if problem else 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--output", type=Path, default=Path("output/gpu_packed"), help="where the archives go")
    parser.add_argument("--work", type=Path, default=Path("output/gpu_pack"), help="pictures and maps, kept here")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="the study's settings")
    parser.add_argument("--sets", nargs="+", help="only these sets of the settings")
    parser.add_argument("--quality", type=int, default=80, help="of the pictures, 1 to 100 (80: about 40 dB)")
    parser.add_argument("--limit-mib", type=float, default=60, help="what archives and code may take together")
    given = parser.parse_args(arguments)
    if not given.data:
        parser.error("give --data or set MWM_DATA")
    return given


def pack_set(settings: Settings, name: str, given: argparse.Namespace) -> int:
    """Write the archive of a set; return its size in bytes."""
    prompt, threshold = settings["sets"][name]["prompt"], settings["pretrain"]["region_threshold"]
    rows = read_rows(Path(given.data) / name)
    record: dict[str, Any] = {"prompt": prompt}
    files = {"manifest.csv": manifest_bytes(rows), "record.json": as_json(record)}
    with ThreadPool(THREADS) as pool:
        sources = [row["source"] for row in rows]
        packed = pool.map(lambda path: picture_bytes(path, settings["side"], given.quality), sources)
    files |= {f"images/{stem(row)}.webp": content for row, content in zip(rows, packed, strict=True)}
    # The maps belong to the pictures as they will be unpacked, not to the originals.
    folder = unpack(write_archive(given.work / f"{name}.zip", files), given.work / name)
    maps = make_maps(folder, rows, prompt, threshold)
    record |= {"side": settings["side"], "quality": given.quality, "region_threshold": threshold}
    record |= {"scans": Counter(row["split"] for row in rows), **describe(maps), **origin(folder, rows, prompt)}
    files |= {**maps, "record.json": as_json(record)}
    path = write_archive(given.output / f"{name}.zip", files)
    print(f"{path}: {path.stat().st_size / MIB:.1f} MiB, {json.dumps(record)}")
    return path.stat().st_size


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Rows of a set's manifest, with `source`, the original picture, and `file`, its name after unpacking."""
    with open(folder / "manifest.csv", newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    twice = [name for name, count in Counter(Path(row["file"]).stem for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{folder}: pictures in several folders are called {twice[0]!r}; give each a name of its own.")
    return [
        {**row, "source": str(folder / row["file"]), "file": f"images/{Path(row['file']).stem}.png"} for row in rows
    ]


def picture_bytes(path: str, side: int, quality: int) -> bytes:
    """Read a picture, turn it grey, make it smaller where it is larger than `side`, and compress it."""
    stream = io.BytesIO()
    with Image.open(path) as picture:
        grey = upright(picture).convert("L")
    grey.thumbnail((side, side), Image.Resampling.LANCZOS)
    grey.save(stream, "WEBP", quality=quality, method=6)
    return stream.getvalue()


def make_maps(folder: Path, rows: Sequence[Row], prompt: str, threshold: float) -> dict[str, bytes]:
    """Localize the prompt in the scans of train and val; return the maps as they travel, by name in the archive."""
    for split in PRETRAINED_ON:
        options = {"dataset_dir": str(folder), "prompt": prompt, "split": split}
        make_workflow("localize", **options, output_dir=str(folder / "regions")).run()
    wanted = [f"maps/{stem(row)}.png" for row in rows if row["split"] in PRETRAINED_ON]
    return {name: cut(folder / map_file(name, prompt), threshold) for name in wanted}


def cut(path: Path, threshold: float) -> bytes:
    """Read a map and cut it: what is at least as probable as the threshold becomes 255, the rest 0."""
    stream = io.BytesIO()
    with Image.open(path) as picture:
        inside = np.asarray(picture) >= threshold * 255
    Image.fromarray(inside.astype(np.uint8) * 255).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def describe(maps: Mapping[str, bytes]) -> dict[str, Any]:
    """Figures of the maps: mean share of the picture, and in how many there is nothing."""
    shares = [float((np.asarray(Image.open(io.BytesIO(content))) > 0).mean()) for content in maps.values()]
    return {"region_share": round(float(np.mean(shares)), 4), "without_region": sum(share == 0 for share in shares)}


def origin(folder: Path, rows: Sequence[Row], prompt: str) -> dict[str, Any]:
    """What made the maps."""
    name = next(row["file"] for row in rows if row["split"] in PRETRAINED_ON)
    record = RegionStore(folder / "regions").record(name, prompt)
    return {} if record is None else {"localizer": record.localizer, "software": record.software}


def over_limit(sizes: Mapping[str, int], limit_mib: float) -> str | None:
    """What to do if all together is too much; None if it is not."""
    if sum(sizes.values()) <= limit_mib * MIB:
        return None
    sets = {name: size for name, size in sizes.items() if name != "code"}
    without = {name: (sum(sizes.values()) - size) / MIB for name, size in sets.items()}
    choices = ", ".join(f"without {name} {size:.1f}" for name, size in without.items())
    return (
        f"Too much to carry: {listed(sizes)}, and the limit is {limit_mib:g} MiB. Leave a set for another call "
        f"({choices} MiB): any archive can travel alone, the study does the sets that it finds. Or pack again with a "
        "lower --quality."
    )


def listed(sizes: Mapping[str, int]) -> str:
    """Sizes and their sum."""
    parts = " + ".join(f"{name} {size / MIB:.1f}" for name, size in sizes.items())
    return f"{parts} = {sum(sizes.values()) / MIB:.1f} MiB"


def stem(row: Row) -> str:
    """Name of a picture without folder and suffix."""
    return Path(row["file"]).stem


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON, always the same for the same content."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    sys.exit(main())
