# SPDX-License-Identifier: Apache-2.0
"""Localize a prompt in every scan of a dataset and report what was found."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom.keys import MIMKeys
from custom.localizers.base import UnknownPromptError
from custom.localizers.parts import when_empty
from custom.localizers.pretrained import MissingWeightsError
from custom.regions import LocalizeRegiond
from custom.workflows.commands import run_command
from custom.workflows.localize_report import LocalizationReport, Subject
from custom.workflows.prompts import Prompt, is_looked_up, named_prompts
from datasets.errors import ScanError

logger = logging.getLogger(__name__)

GATE_HELP = (
    "Not measured. A localizer may draw much the same map whatever it is asked for; the gate finds out, without any "
    "label, by asking a few scans for synonyms, misspellings, other organs and nonsense. Run the same command again "
    "with --gate_scans 8 (maps that are there are not made anew); bundle/configs/gate.yaml makes the gate alone."
)
_NOT_THE_SCANS_FAULT = (UnknownPromptError, MissingWeightsError)


class RegionLocalization:
    """Make the region maps of a dataset, ``report.html``, a contact sheet, ``summary.json`` and ``summary.csv``.

    Maps are kept as soon as they are made: a run that was stopped goes on where it was, and one that is repeated
    only reads. A run that fails reports what it has so far.

    Args:
        items: datalist entries, with ``image`` and ``scan_id``.
        load: transform that reads a scan.
        localize: makes and keeps the maps.
        output_dir: folder of the report; a ``gate.json`` there becomes part of it.
        skip_bad: report scans that cannot be read or localized, and go on; False: stop at the first one.
        progress: show a progress bar.
        next_step: last line of the log, what to do with the maps.
        dataset: name of the dataset, for the report.
        cards: how many maps the page shows at most, suspicious ones first; its figures are of all.
        gate: content of a ``gate.json``, in place of the one in ``output_dir``.
        gate_help: what the page says where there is no gate: how to make one.
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
        dataset: str = "",
        cards: int = 400,
        gate: Mapping[str, Any] | None = None,
        gate_help: str = GATE_HELP,
    ) -> None:
        self.items, self.load, self.localize = items, load, localize
        self.output_dir, self.skip_bad, self.progress = Path(output_dir), skip_bad, progress
        self.next_step = next_step
        localizer = localize.localizer.describe() if localize.localizer else {}
        subject = Subject(str(dataset), localizer, localize.prompts, localize.threshold, len(items))
        self.report = LocalizationReport(output_dir, subject, cards, gate, gate_help)

    def run(self) -> dict[str, Any]:
        """Localize and report.

        Returns:
            The summary, as written to ``summary.json`` (without its rows).

        Raises:
            ScanError: if there is no scan, none that can be read, or (without ``skip_bad``) one that cannot.
        """
        if not self.items:
            raise ScanError("dataset", "no scans to localize in", "Check --dataset_dir and --split")
        if self.localize.store and not self.localize.store.read_only:
            self.localize.store.tidy()
        try:
            for index, item in enumerate(tqdm(self.items, desc="localizing", unit="scan", disable=not self.progress)):
                self._localize(index, item)
        except BaseException as error:
            self._report_so_far(error)
            raise
        if not self.report.rows:
            name, message = self.report.skipped[0]
            raise ScanError(name, f"{message} (none of {len(self.items)} scans can be used)", "Correct the first one")
        summary = self.report.write()
        _log(summary, when_empty(self.localize.localizer))
        logger.info("Look at %s. %s", self.output_dir / "report.html", self.next_step)
        return summary

    def _localize(self, index: int, item: Mapping[str, Any]) -> None:
        try:
            scan = self.localize(self.load(dict(item)))
        except ValueError as error:
            if not self.skip_bad or isinstance(error, _NOT_THE_SCANS_FAULT):
                raise
            logger.warning("Skipped %s: %s", item[MIMKeys.SCAN_ID], error)
            self.report.skip(str(item[MIMKeys.SCAN_ID]), str(error))
            return
        scan_id, region = str(scan[MIMKeys.SCAN_ID]), scan[MIMKeys.REGION].as_tensor()
        made = {prompt: self._made(scan_id, prompt, region.ndim - 1) for prompt in self.localize.asked(scan)}
        self.report.add(index, scan_id, scan[MIMKeys.IMAGE], region, made)

    def _made(self, scan_id: str, prompt: str, dims: int) -> tuple[float, str]:
        """How long a map took, and where it lies, as seen from the report."""
        store = self.localize.store
        if store is None:
            return 0.0, ""
        record = store.record(scan_id, prompt)
        file = os.path.relpath(store.file(scan_id, prompt, dims), self.output_dir)
        return record.seconds if record else 0.0, file

    def _report_so_far(self, error: BaseException) -> None:
        """Report what a run has that ends here; the error goes its way, whatever becomes of the report."""
        if not self.report.rows:
            return
        try:
            self.report.write(stopped=str(error) or type(error).__name__)
        except Exception:
            logger.exception("The report of the scans so far could not be written.")
        else:
            done = len({row.scan_id for row in self.report.rows})
            logger.info(
                "Stopped after %d of %d scans; their maps are kept, see %s. The same command goes on from there.",
                done, len(self.items), self.output_dir / "report.html",
            )  # fmt: skip


def required_prompts(prompt: str | Sequence[str] | None, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the phrases to localize, see :func:`custom.workflows.prompts.named_prompts`; ValueError if none."""
    prompts = named_prompts(prompt, items)
    if not prompts:
        raise ValueError('Name what to localize: --prompt "brain tumor" (one phrase), or a list of phrases.')
    return prompts


def pretrain_command(
    configs: str, dataset_dir: str, region_dir: str, prompts: Sequence[str], prompt: Prompt = None
) -> str:
    """Return the command that pretrains with maps made before, ready to paste.

    Args:
        configs: folder of the configs.
        dataset_dir: the scans.
        region_dir: the maps.
        prompts: the phrases.
        prompt: as the user gave it; where the phrases were looked up scan by scan, they must be again.
    """
    if is_looked_up(prompt):
        prompt = str(prompt)
    else:
        # The command line would split a phrase at its commas, a list keeps it whole.
        prompt = prompts[0] if len(prompts) == 1 and "," not in prompts[0] else str(list(prompts))
    options = {"config_file": f"{configs}/pretrain.yaml", "dataset_dir": dataset_dir, "prompt": prompt}
    return f"Next: {run_command({**options, 'region_dir': region_dir})}"


def _log(summary: Mapping[str, Any], remedy: tuple[str, Any] | None) -> None:
    for prompt, figures in summary["prompts"].items():
        logger.info(
            "%r: %d maps, mean coverage %.1f %%, nothing found in %d; %.2f seconds a scan.",
            prompt,
            figures["maps"],
            100 * figures["mean_coverage"],
            figures["empty"],
            summary["seconds_per_scan"],
        )
        if figures["empty"] and remedy:
            text = "%r: nothing found in %d of %d. If it is there to be seen, try the localizer with {%s: %s}."
            logger.warning(text, prompt, figures["empty"], figures["maps"], *remedy)
