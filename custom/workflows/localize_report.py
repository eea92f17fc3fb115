# SPDX-License-Identifier: Apache-2.0
"""What localize.yaml writes beside the maps: a page for the browser, a contact sheet and the summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from custom.files import write_atomically
from custom.gate import GateRecord
from custom.gate.record import same_description
from custom.regions.report import (
    LIMITS,
    RULES,
    RegionRow,
    flag_row,
    flag_rows,
    region_row,
    summarize,
    threshold_level,
    usual_coverage,
    write_summary,
)
from custom.visual.contact_sheet import Tile, contact_sheet, make_tiles, spread
from custom.visual.region_page import EvenSample, Pictures, make_pictures, render_page

logger = logging.getLogger(__name__)

STOPS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # thresholds of the page's slider, beside the run's


class Subject(NamedTuple):
    """What a report is about.

    Args:
        dataset: name of the dataset.
        localizer: the localizer's ``describe()``.
        prompts: the phrases.
        threshold: probability from which a voxel counts as region.
        planned: number of scans that the run is to go through.
    """

    dataset: str
    localizer: Mapping[str, Any]
    prompts: Sequence[str]
    threshold: float
    planned: int


class _Sampled(NamedTuple):
    """A map that may be shown: its row's number, its file and its pictures."""

    number: int
    file: str
    pictures: Pictures


class LocalizationReport:
    """Collects figures of every map and pictures of some, scan by scan, and writes them.

    Args:
        output_dir: folder of the report.
        subject: what the report is about.
        cards: how many maps the page shows at most; its figures are of all.
        gate: content of a ``gate.json``; None: the one in ``output_dir``, if there is one.
        gate_help: shown where there is no gate.
    """

    def __init__(
        self,
        output_dir: str | Path,
        subject: Subject,
        cards: int = 400,
        gate: Mapping[str, Any] | None = None,
        gate_help: str = "",
    ) -> None:
        self.output_dir, self.subject, self.cards = Path(output_dir), subject, cards
        self.gate, self.gate_help = gate, gate_help
        self.rows: list[RegionRow] = []
        self.skipped: list[tuple[str, str]] = []
        self.stops = sorted({*STOPS, float(subject.threshold)})
        self._tiles: list[list[Tile]] = []
        self._on_sheet = set(spread(subject.planned))
        self._samples: dict[bool, EvenSample[_Sampled]] = {
            suspicious: EvenSample(cards) for suspicious in (True, False)
        }
        self._usual = {prompt: _RunningRange() for prompt in subject.prompts}

    def add(
        self, index: int, scan_id: str, image: Tensor, region: Tensor, made: Mapping[str, tuple[float, str]]
    ) -> None:
        """Take in the maps of the run's scan number ``index``.

        Args:
            index: its place in the dataset.
            scan_id: name of the scan.
            image: ``[C, *spatial]``.
            region: ``[P, *spatial]``, a map a prompt, in [0, 1].
            made: for each phrase that the scan was asked for the seconds that its map took, and its file.
        """
        threshold, prompts = self.subject.threshold, self.subject.prompts
        for prompt, each in zip(prompts, region, strict=True):
            if prompt not in made:
                continue
            seconds, file = made[prompt]
            row = region_row(scan_id, prompt, each, threshold, seconds, self.stops)
            # What is unusual is known for certain when all is seen; here it only decides which pictures to keep.
            suspicious = bool(flag_row(row, threshold, self._usual[prompt].including(row.coverage)).flags)
            if self._samples[suspicious].takes_next():
                drawn = make_pictures(image, each, threshold)
                self._samples[suspicious].kept.append(_Sampled(len(self.rows), file, drawn))
            self.rows.append(row)
        # The first scans that can be read stand in for those that cannot, should the sheet stay empty.
        if index in self._on_sheet or not self._tiles:
            self._tiles.append(make_tiles(image, region, scan_id, prompts, threshold))

    def skip(self, scan_id: str, message: str) -> None:
        """Take in a scan that was left out, and why."""
        self.skipped.append((scan_id, message))

    def write(self, stopped: str = "") -> dict[str, Any]:
        """Write all files, each as a whole or not at all.

        Args:
            stopped: why the run ended before its last scan.

        Returns:
            The summary, as written to ``summary.json`` (without its rows).
        """
        rows = flag_rows(self.rows, self.subject.threshold)
        summary = summarize(rows, self.subject.threshold, self.skipped)
        if stopped:
            summary = {**summary, "stopped": stopped, "planned": self.subject.planned}
        write_summary(self.output_dir, rows, summary)
        sheet = contact_sheet(self._tiles, self.subject.threshold)
        write_atomically(self.output_dir / "contact_sheet.png", lambda path: sheet.savefig(path, format="png"))
        page = render_page(self._page(rows, stopped))
        write_atomically(self.output_dir / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
        return summary

    def _page(self, rows: Sequence[RegionRow], stopped: str) -> dict[str, Any]:
        subject = self.subject
        number = {prompt: index for index, prompt in enumerate(subject.prompts)}
        gate, note = self._read_gate()
        pictures: dict[bytes, int] = {}
        cards = [
            {
                "map": each.number,
                "scan": rows[each.number].scan_id,
                "picture": pictures.setdefault(each.pictures.scan, len(pictures)),
                "region": each.pictures.region,
                "aspect": each.pictures.aspect,
                "seconds": rows[each.number].seconds,
                "file": each.file,
            }
            for each in self._shown(rows)
        ]
        return {
            "dataset": subject.dataset,
            "localizer": subject.localizer,
            "threshold": float(subject.threshold),
            "scans": len({row.scan_id for row in rows}),
            "planned": subject.planned,
            "stopped": stopped,
            "skipped": [{"scan_id": name, "message": message} for name, message in self.skipped],
            "prompts": list(subject.prompts),
            "thresholds": self.stops,
            "levels": [threshold_level(stop) for stop in self.stops],
            "maps": {
                "prompt": [number[row.prompt] for row in rows],
                "max": [round(255 * row.max) for row in rows],
                "pieces": [row.pieces for row in rows],
                "border": [row.border for row in rows],
                "coverage": np.stack([row.curve for row in rows]).astype("<f4").tobytes(),
            },
            "rules": [rule._asdict() for rule in RULES],
            "limits": LIMITS,
            "cards": cards,
            "pictures": list(pictures),
            "gate": gate,
            "gate_note": note,
            "gate_help": self.gate_help,
        }

    def _shown(self, rows: Sequence[RegionRow]) -> list[_Sampled]:
        """Suspicious maps first; a quarter is kept for the others, to compare with; both evenly spread."""
        sampled = sorted(
            (each for sample in self._samples.values() for each in sample.kept), key=lambda each: each.number
        )
        suspicious = [each for each in sampled if rows[each.number].flags]
        fine = [each for each in sampled if not rows[each.number].flags]
        reserved = min(len(fine), self.cards // 4)
        first = _thinned(suspicious, self.cards - reserved)
        return first + _thinned(fine, self.cards - len(first))

    def _read_gate(self) -> tuple[Mapping[str, Any] | None, str]:
        """The gate and what is to be said of it."""
        gate = self.gate
        if gate is None:
            try:
                record = GateRecord.load(self.output_dir)
            except ValueError as error:
                logger.warning("The report goes without the gate: %s", error)
                return None, str(error)
            if record is None:
                return None, ""
            gate = asdict(record)
        return gate, _difference(gate.get("localizer"), self.subject.localizer)


class _RunningRange:
    """What coverage is usual so far, computed anew whenever a fifth more is known."""

    def __init__(self) -> None:
        self._coverages: list[float] = []
        self._range: tuple[float, float] | None = None
        self._next = 1.0

    def including(self, coverage: float) -> tuple[float, float] | None:
        self._coverages.append(coverage)
        if len(self._coverages) >= self._next:
            self._range = usual_coverage(self._coverages)
            self._next = 1.2 * len(self._coverages)
        return self._range


def _thinned(sampled: Sequence[_Sampled], wanted: int) -> list[_Sampled]:
    return [sampled[index] for index in spread(len(sampled), wanted)] if sampled and wanted > 0 else []


def _difference(measured: Any, used: Mapping[str, Any]) -> str:
    """A sentence if the gate was measured with another localizer than the maps were made with."""
    if not measured or same_description(measured, used):
        return ""
    return "This gate was measured with another localizer, or other settings of it, than these maps were made with."
