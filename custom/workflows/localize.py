# SPDX-License-Identifier: Apache-2.0
"""Localize a prompt in every scan of a dataset and report what was found."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from custom.keys import MIMKeys
from custom.regions import LocalizeRegiond
from custom.regions.report import RegionRow, region_row, summarize, write_summary
from custom.visual.contact_sheet import Tile, make_tiles, save_contact_sheet, spread
from custom.workflows.prompts import named_prompts
from datasets.errors import ScanError

logger = logging.getLogger(__name__)


class RegionLocalization:
    """Make the region maps of a dataset, a contact sheet, ``summary.json`` and ``summary.csv``.

    Maps are kept as soon as they are made: a run that was stopped goes on where it was, and one that is repeated
    only reads.

    Args:
        items: datalist entries, with ``image`` and ``scan_id``.
        load: transform that reads a scan.
        localize: makes and keeps the maps.
        output_dir: folder of the report.
        skip_bad: report scans that cannot be read, and go on; False: stop at the first one.
        progress: show a progress bar.
        next_step: last line of the log, what to do with the maps.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        load: Callable,
        localize: LocalizeRegiond,
        output_dir: str | Path,
        skip_bad: bool = False,
        progress: bool = True,
        next_step: str = "",
    ) -> None:
        self.items, self.load, self.localize = items, load, localize
        self.output_dir, self.skip_bad, self.progress = Path(output_dir), skip_bad, progress
        self.next_step = next_step
        self.rows: list[RegionRow] = []
        self.tiles: list[list[Tile]] = []
        self.skipped: list[tuple[str, str]] = []

    def run(self) -> dict[str, Any]:
        """Localize and report.

        Returns:
            The summary, as written to ``summary.json`` (without its rows).

        Raises:
            ScanError: if there is no scan, none that can be read, or (without ``skip_bad``) one that cannot.
        """
        if not self.items:
            raise ScanError("dataset", "no scans to localize in", "Check --dataset_dir and --split")
        on_sheet = set(spread(len(self.items)))
        for index, item in enumerate(tqdm(self.items, desc="localizing", unit="scan", disable=not self.progress)):
            scan = self._read(item)
            if scan is not None:
                self._localize(scan, index in on_sheet)
        return self._report()

    def _read(self, item: Mapping[str, Any]) -> Mapping[Hashable, Any] | None:
        try:
            return self.load(dict(item))
        except ScanError as error:
            if not self.skip_bad:
                raise
            logger.warning("Skipped %s: %s", item[MIMKeys.SCAN_ID], error)
            self.skipped.append((str(item[MIMKeys.SCAN_ID]), str(error)))
            return None

    def _localize(self, scan: Mapping[Hashable, Any], on_sheet: bool) -> None:
        scan_id, prompts, threshold = str(scan[MIMKeys.SCAN_ID]), self.localize.prompts, self.localize.threshold
        region: Tensor = self.localize(scan)[MIMKeys.REGION].as_tensor()
        for prompt, each in zip(prompts, region, strict=True):
            self.rows.append(region_row(scan_id, prompt, each, threshold, self._seconds(scan_id, prompt)))
        # The first scans that can be read stand in for those that cannot, should the sheet stay empty.
        if on_sheet or not self.tiles:
            self.tiles.append(make_tiles(scan[MIMKeys.IMAGE], region, scan_id, prompts, threshold))

    def _seconds(self, scan_id: str, prompt: str) -> float:
        record = self.localize.store.record(scan_id, prompt) if self.localize.store else None
        return record.seconds if record else 0.0

    def _report(self) -> dict[str, Any]:
        if not self.rows:
            name, message = self.skipped[0]
            raise ScanError(name, f"{message} (none of {len(self.items)} scans can be read)", "Correct the first one")
        summary = summarize(self.rows, self.localize.threshold, self.skipped)
        write_summary(self.output_dir, self.rows, summary)
        save_contact_sheet(self.output_dir / "contact_sheet.png", self.tiles, self.localize.threshold)
        _log(summary)
        logger.info("Look at %s. %s", self.output_dir / "contact_sheet.png", self.next_step)
        return summary


def required_prompts(prompt: str | Sequence[str] | None, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the phrases to localize, see :func:`custom.workflows.prompts.named_prompts`; ValueError if none."""
    prompts = named_prompts(prompt, items)
    if not prompts:
        raise ValueError('Name what to localize: --prompt "brain tumor" (one phrase), or a list of phrases.')
    return prompts


def pretrain_command(configs: str, dataset_dir: str, region_dir: str, prompts: Sequence[str]) -> str:
    """Return the command that pretrains with maps made before, ready to paste."""
    # The command line would split a phrase at its commas, a list keeps it whole.
    prompt = prompts[0] if len(prompts) == 1 and "," not in prompts[0] else str(list(prompts))
    options = {"config_file": f"{configs}/pretrain.yaml", "dataset_dir": dataset_dir, "prompt": prompt}
    given = " ".join(f"--{name} {_quoted(value)}" for name, value in {**options, "region_dir": region_dir}.items())
    return f"Next: python -m monai.bundle run {given}"


def _quoted(value: str) -> str:
    readable = shlex.quote(value) != value and not set(value) & set('"$`\\!')
    return f'"{value}"' if readable else shlex.quote(value)


def _log(summary: Mapping[str, Any]) -> None:
    for prompt, figures in summary["prompts"].items():
        logger.info(
            "%r: %d scans, mean coverage %.1f %%, nothing found in %d; %.2f seconds a scan.",
            prompt,
            summary["scans"],
            100 * figures["mean_coverage"],
            figures["empty"],
            summary["seconds_per_scan"],
        )
