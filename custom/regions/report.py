# SPDX-License-Identifier: Apache-2.0
"""Figures of the region maps of a dataset: a row a scan and prompt, what is suspicious in it, and all in numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor

from custom.files import write_atomically

LEVELS = 256  # maps are kept in steps of 1/255
LARGEST_COVERAGE = 0.6  # share of a scan; one organ or lesion fills less
FAR = 3.5  # robust z-score from which a value counts as an outlier (Iglewicz and Hoaglin 1993, section 3.3)
LEAST_SPREAD = 0.1  # of the logit of coverage: regions within a factor of 1.7 of the median are never outliers
FEWEST = 10  # scans from which something can be said of what is usual
MOST_PIECES = 4  # of a region; two lungs make two
BORDER = 0.05  # width of the border, as a share of the scan's edges
LARGEST_BORDER = 0.5
_SHAPE_EDGE = 128  # longest edge of the copy on which pieces and border are measured


class Rule(NamedTuple):
    """A reason to look at a map.

    Args:
        flag: its name.
        reason: a sentence with the places that :func:`flag_row` fills in.
    """

    flag: str
    reason: str


RULES = (
    Rule("empty", "The localizer found nothing: the map is zero everywhere."),
    Rule("below threshold", "No voxel reaches the threshold of {threshold}; the highest probability is {max}."),
    Rule("large", "The region covers {coverage} of the scan, more than {largest}."),
    Rule("unusual size", "The region covers {coverage} of the scan; usual in this dataset are {low} to {high}."),
    Rule("scattered", "The region lies scattered: {pieces} separate pieces make up nine tenths of it."),
    Rule("at the border", "{border} of the region lies along the border of the scan."),
)
LIMITS = {
    "largest": LARGEST_COVERAGE,
    "far": FAR,
    "least_spread": LEAST_SPREAD,
    "fewest": FEWEST,
    "most_pieces": MOST_PIECES,
    "largest_border": LARGEST_BORDER,
}
EMPTY_FLAGS = ("empty", "below threshold")


@dataclass(frozen=True)
class RegionRow:
    """One map in figures.

    Args:
        scan_id: name of the scan.
        prompt: the phrase.
        coverage: share of voxels at or above the threshold, in [0, 1].
        max: the largest probability.
        empty: nothing was found: the map is zero everywhere.
        seconds: time that the localizer took, when the map was made.
        pieces: connected pieces that make up nine tenths of the region, the largest first.
        border: share of the region that lies along the border of the scan, in [0, 1].
        flags: names of the :data:`RULES` that apply, see :func:`flag_rows`.
        reasons: one sentence a flag.
        curve: coverage at other thresholds, float32; not part of the summary.
    """

    scan_id: str
    prompt: str
    coverage: float
    max: float
    empty: bool
    seconds: float
    pieces: int = 0
    border: float = 0.0
    flags: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    curve: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False, compare=False)

    def plain(self) -> dict[str, Any]:
        """What the summary holds: everything but the curve."""
        return {key: value for key, value in asdict(self).items() if key != "curve"}


def region_row(
    scan_id: str, prompt: str, region: Tensor, threshold: float, seconds: float, curve_at: Sequence[float] = ()
) -> RegionRow:
    """Measure a map ``[*spatial]`` in [0, 1], in steps of 1/255; its flags come with :func:`flag_rows`.

    Args:
        scan_id: name of the scan.
        prompt: the phrase.
        region: the map.
        threshold: probability from which a voxel counts.
        seconds: time that the localizer took.
        curve_at: thresholds of the row's curve.
    """
    levels = (region.numpy() * np.float32(LEVELS - 1) + np.float32(0.5)).astype(np.uint8)
    shares = _share_from_each_level(levels)
    pieces, border = _shape(levels, threshold_level(threshold))
    return RegionRow(
        scan_id=scan_id,
        prompt=prompt,
        coverage=float(shares[threshold_level(threshold)]),
        max=round(int(levels.max()) / (LEVELS - 1), 6),
        empty=not levels.any(),
        seconds=seconds,
        pieces=pieces,
        border=border,
        curve=shares[[threshold_level(each) for each in curve_at]].astype(np.float32),
    )


def threshold_level(threshold: float) -> int:
    """The lowest level ``k`` of 0..255 with ``k / 255 >= threshold``; 256 if there is none."""
    # In float32, as maps are: 51 / 255 counts as 0.2.
    return int(np.searchsorted(np.arange(LEVELS, dtype=np.float32) / np.float32(LEVELS - 1), np.float32(threshold)))


def flag_rows(rows: Sequence[RegionRow], threshold: float) -> list[RegionRow]:
    """Return rows with what is suspicious in each, against fixed limits and the other scans of its prompt."""
    usual = {prompt: usual_coverage([row.coverage for row in of]) for prompt, of in by_prompt(rows).items()}
    return [flag_row(row, threshold, usual[row.prompt]) for row in rows]


def usual_coverage(coverages: Sequence[float]) -> tuple[float, float] | None:
    """Range of coverage that is usual in a dataset; None if there are too few regions to tell.

    Modified z-scores by median and median absolute deviation (Iglewicz and Hoaglin 1993, section 3.3), of the logit
    of coverage, because sizes differ by factors; scans in which nothing was found do not count.

    Args:
        coverages: of the scans, in [0, 1].
    """
    found = np.array([coverage for coverage in coverages if 0 < coverage < 1], dtype=np.float64)
    if len(found) < FEWEST:
        return None
    logit = np.log(found / (1 - found))
    middle = np.median(logit)
    reach = FAR * max(float(np.median(np.abs(logit - middle))), LEAST_SPREAD) / 0.6745
    low, high = 1 / (1 + np.exp(-(middle + np.array([-reach, reach]))))
    return float(low), float(high)


def summarize(rows: Sequence[RegionRow], threshold: float, skipped: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the figures over all scans, for each prompt, and the scans that were left out.

    Args:
        rows: a row a scan and prompt.
        threshold: the one of the rows' coverage.
        skipped: ``(scan_id, message)`` of scans that could not be read.
    """
    scans = {row.scan_id for row in rows}
    return {
        "scans": len(scans),
        "threshold": threshold,
        "seconds_per_scan": round(sum(row.seconds for row in rows) / max(len(scans), 1), 4),
        "prompts": {prompt: _figures(of) for prompt, of in by_prompt(rows).items()},
        "skipped": [{"scan_id": name, "message": message} for name, message in skipped],
    }


def write_summary(folder: str | Path, rows: Sequence[RegionRow], summary: Mapping[str, Any]) -> None:
    """Write ``summary.json`` and ``summary.csv`` (a line a scan and prompt) into a folder, each as a whole or not."""
    content = json.dumps({**summary, "maps": [row.plain() for row in rows]}, indent=2) + "\n"
    table = io.StringIO()
    writer = csv.DictWriter(table, [name for name in RegionRow.__dataclass_fields__ if name != "curve"])
    writer.writeheader()
    for row in rows:
        writer.writerow({**row.plain(), "flags": "; ".join(row.flags), "reasons": " ".join(row.reasons)})
    _write_text(Path(folder) / "summary.json", content)
    _write_text(Path(folder) / "summary.csv", table.getvalue())


def _write_text(path: Path, text: str) -> None:
    # Names of files may hold bytes that are no UTF-8.
    encoded = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded))


def by_prompt(rows: Sequence[RegionRow]) -> dict[str, list[RegionRow]]:
    """Rows of each prompt, prompts in the order of the rows."""
    groups: dict[str, list[RegionRow]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(row)
    return groups


def flag_row(row: RegionRow, threshold: float, usual: tuple[float, float] | None) -> RegionRow:
    """Return a row with what is suspicious in it; ``usual`` comes from :func:`usual_coverage`."""
    found = row.coverage > 0
    applies = {
        "empty": row.empty,
        "below threshold": not found and not row.empty,
        "large": row.coverage > LARGEST_COVERAGE,
        "unusual size": found and usual is not None and not usual[0] <= row.coverage <= usual[1],
        "scattered": row.pieces > MOST_PIECES,
        "at the border": row.border > LARGEST_BORDER,
    }
    low, high = usual or (0.0, 0.0)
    values = {
        "threshold": f"{threshold:g}",
        "max": f"{row.max:.2f}",
        "coverage": percent(row.coverage),
        "largest": percent(LARGEST_COVERAGE),
        "low": percent(low),
        "high": percent(high),
        "pieces": str(row.pieces),
        "border": percent(row.border),
    }
    rules = [rule for rule in RULES if applies[rule.flag]]
    return replace(
        row, flags=tuple(rule.flag for rule in rules), reasons=tuple(rule.reason.format(**values) for rule in rules)
    )


def percent(share: float) -> str:
    """A share in [0, 1] for people: two significant digits where it is small."""
    value = 100 * share
    if value >= 10 or value == 0:
        return f"{value:.0f} %"
    if value >= 1:
        return f"{value:.1f} %"
    return "< 0.01 %" if value < 0.01 else f"{value:.2g} %"


def _figures(rows: Sequence[RegionRow]) -> dict[str, Any]:
    coverage = np.array([row.coverage for row in rows])
    return {
        "maps": len(rows),
        "mean_coverage": round(float(coverage.mean()), 6),
        "median_coverage": round(float(np.median(coverage)), 6),
        "empty": sum(row.empty for row in rows),
        "below_threshold": int((coverage == 0).sum()),
        "flags": {rule.flag: sum(rule.flag in row.flags for row in rows) for rule in RULES},
    }


def _share_from_each_level(levels: np.ndarray) -> np.ndarray:
    """Float64 ``[257]``: share of voxels with at least each level; none has 256."""
    flat = levels.reshape(-1)
    # In pieces, because numpy counts in 64-bit copies of what it is given.
    blocks = range(0, flat.size, 1 << 20)
    counts = sum(np.bincount(flat[start : start + (1 << 20)], minlength=LEVELS) for start in blocks)
    return np.append(np.cumsum(np.asarray(counts)[::-1])[::-1] / flat.size, 0.0)


def _shape(levels: np.ndarray, least: int) -> tuple[int, float]:
    """Pieces that make up nine tenths of the region, and the share of it along the border."""
    region = _coarse(levels, _SHAPE_EDGE) >= least
    total = int(region.sum())
    if not total:
        return 0, 0.0
    labels, _ = ndimage.label(region, np.ones((3,) * region.ndim))
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    pieces = int(np.searchsorted(np.cumsum(sizes), 0.9 * total)) + 1
    widths = [max(1, round(BORDER * size)) for size in region.shape]
    inside = region[tuple(slice(width, -width) for width in widths)]
    return pieces, round(1 - int(inside.sum()) / total, 4)


def _coarse(levels: np.ndarray, longest: int) -> np.ndarray:
    """Edges of at most ``longest``, by the maximum over blocks: nothing small is lost."""
    step = -(-max(levels.shape) // longest)
    for axis in range(levels.ndim if step > 1 else 0):
        planes = np.moveaxis(levels, axis, 0)
        highest = planes[::step].copy()
        for offset in range(1, step):
            part = planes[offset::step]
            np.maximum(highest[: len(part)], part, out=highest[: len(part)])
        levels = np.moveaxis(highest, 0, axis)
    return levels
