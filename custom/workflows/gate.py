# SPDX-License-Identifier: Apache-2.0
"""The gate: ask a localizer in many ways, on a few scans, whether it heeds what it is asked."""

from __future__ import annotations

import copy
import csv
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from tqdm import tqdm

from custom.files import write_atomically
from custom.gate import Answer, GateRecord, GateRules, PromptGate, ScanAnswers, judge, measure_prompt, region_similarity
from custom.keys import MIMKeys
from custom.localizers import BodyOnly, CentredDisc, Localizer, UnknownPromptError
from custom.localizers.parts import altered, when_empty
from custom.localizers.windows import asked_for
from custom.metrics.localization import compare_with_truth, in_boxes
from custom.prompts.phrasings import Phrasing
from custom.visual.gate_figure import gate_figure
from custom.workflows.gate_setup import Scan
from datasets.errors import ScanError
from datasets.geometry import boxes_in_memory

logger = logging.getLogger(__name__)

VOXELS_AT_ONCE = 30_000_000  # of the maps of several phrases; bounds the memory on volumes
DISC_LIMITS = (1e-3, 0.7)  # areas that the centred disc can take
LEAST_SCANS = 2
TOP_SHARE = 0.01  # of the voxels, whose mean probability is a scan's score


class GateRun:
    """Measure, judge and write ``gate.json``, ``gate.csv`` (a line a phrase) and ``gate.png``.

    No label is needed. A gate that is there already, made in the same way, is not made again. Where a prompt finds
    nothing and the localizer names an option for that case (``when_empty``), the same is asked with it, and the reasons
    of the verdict say what came of it.

    Args:
        localizer: what is looked at.
        prompts: the phrases that are to decide the masks.
        phrases: prompt -> other ways to ask, see :func:`custom.workflows.gate_setup.phrases_of`.
        scans: loaded lazily, in a drawn order: dictionaries with ``image`` and ``scan_id``, where known ``mask`` or
            ``boxes``.
        elsewhere: scans of other body parts, or what returns them: called only once the localizer knows the prompts.
        output_dir: the folder of the region maps.
        dataset: name of the data set, for the record.
        others: name -> another localizer to compare with.
        target: from a mask ``[*spatial]`` to the boolean target; None: everything above 0.
        threshold: probability from which a voxel is region, as in masking; None: compare probabilities.
        rules: limits of the verdict.
        max_minutes: about how long it may take. A slow localizer is asked fewer phrases of each kind, and on fewer
            scans, down to one phrase of each kind on two scans; what takes longer even so is not begun.
        settings: what else is to be recorded.
        skip_bad: leave out scans that cannot be read, with a warning.
        most: look at so many of the scans; the others stand in for those that cannot be read. None: at all.
    """

    def __init__(
        self,
        localizer: Localizer,
        prompts: Sequence[str],
        phrases: Mapping[str, Sequence[Phrasing]],
        scans: Sequence[Callable[[], Scan]],
        output_dir: str | Path,
        elsewhere: Sequence[Callable[[], Scan]] | Callable[[], Sequence[Callable[[], Scan]]] = (),
        dataset: str = "",
        others: Mapping[str, Localizer] | None = None,
        target: Callable[[np.ndarray], np.ndarray] | None = None,
        threshold: float | None = 0.5,
        rules: GateRules | None = None,
        max_minutes: float = 10.0,
        settings: Mapping[str, Any] | None = None,
        skip_bad: bool = False,
        most: int | None = None,
    ) -> None:
        self.localizer, self.prompts, self.phrases = localizer, list(prompts), phrases
        self.scans, self.elsewhere, self.output_dir, self.dataset = scans, elsewhere, Path(output_dir), dataset
        self.others, self.target, self.threshold = dict(others or {}), target, threshold
        self.rules, self.max_minutes, self.skip_bad = rules or GateRules(), max_minutes, skip_bad
        self.settings = dict(settings or {})
        self.wanted = len(scans) if most is None else min(most, len(scans))
        self._asked: Mapping[str, Sequence[Phrasing]] = phrases
        self._refused: set[str] = set()

    def run(self) -> GateRecord | None:
        """Return the record, as written; None if it would take longer than it may.

        Raises:
            ScanError: if there is no scan, or (without ``skip_bad``) one that cannot be read.
            UnknownPromptError: if the localizer does not know a prompt.
            OSError: if the files cannot be written.
        """
        if not self.scans:
            raise ScanError(self.dataset or "dataset", "no scans for the gate", "Check --dataset_dir and --split")
        known = self._known()
        if known is not None:
            logger.info("The gate in %s was made in the same way; it is not made again.", self.output_dir)
            return known
        first = next(self._read(self.scans), None)
        if first is None:
            problem = f"none of the {len(self.scans)} scans drawn for the gate can be read"
            remedy = "See the warnings above; mend the scans, or make the maps without a gate (--gate_scans 0)"
            raise ScanError(self.dataset or "dataset", problem, remedy)
        self._asked = self._affordable(first)
        if not self._asked:
            return None
        self._ask_for_all(first)
        others = self.elsewhere() if callable(self.elsewhere) else self.elsewhere
        answers = self._look()
        gates = self._tried_otherwise(self._gates(answers, others), first, others)
        record = GateRecord(
            self.localizer.describe(), self.dataset, len(answers), self.threshold, gates, self._all_settings()
        )
        self._write(record)
        return record

    def _gates(
        self, answers: Sequence[Mapping[str, ScanAnswers]], others: Sequence[Callable[[], Scan]]
    ) -> dict[str, PromptGate]:
        elsewhere = [
            # Not to know a prompt on scans of another modality is a right answer there.
            {prompt: self._answers(scan[MIMKeys.IMAGE], [prompt], refusable=True)[0][0] for prompt in self.prompts}
            for scan in self._read(others)
        ]
        return {prompt: self._judge(prompt, found, elsewhere) for prompt, found in self._by_prompt(answers).items()}

    def _tried_otherwise(
        self, gates: dict[str, PromptGate], scan: Scan, others: Sequence[Callable[[], Scan]]
    ) -> dict[str, PromptGate]:
        """Where a prompt finds nothing, say what the option does that the localizer names for that case."""
        remedy, empty = when_empty(self.localizer), [name for name, gate in gates.items() if not gate.measures["found"]]
        if remedy is None or not empty:
            return gates
        trial = copy.copy(self)
        trial.localizer, trial.prompts, trial._refused = altered(self.localizer, *remedy), empty, set()
        trial.phrases = {prompt: self.phrases[prompt] for prompt in empty}
        trial._asked = trial._affordable(scan)
        tried = trial._gates(trial._look(), others) if trial._asked else {}
        option = f"{{{remedy[0]}: {remedy[1]}}}"
        advice = {
            name: f"with {option} it finds something on {100 * gate.measures['found']:.0f} % of the scans: "
            f"{gate.verdict} ({'; '.join(gate.reasons)})"
            for name, gate in tried.items()
        }
        return {
            name: replace(gate, reasons=[*gate.reasons, advice.get(name, f"try {option}")]) if name in empty else gate
            for name, gate in gates.items()
        }

    def _known(self) -> GateRecord | None:
        try:
            found = GateRecord.load(self.output_dir)
        except ValueError as error:
            logger.warning("%s It is replaced.", error)
            return None
        wanted = GateRecord(self.localizer.describe(), self.dataset, 0, self.threshold, {}, self._all_settings())
        same = found is not None and found.made_like(wanted) and set(self.prompts) <= set(found.prompts)
        return found if same else None

    def _all_settings(self) -> dict[str, Any]:
        phrases = {prompt: [each.text for each in self.phrases[prompt]] for prompt in self.prompts}
        others = {name: other.describe() for name, other in self.others.items()}
        return {**self.settings, "phrases": phrases, "others": others, "scans_offered": self.wanted}

    def _ask_for_all(self, scan: Scan) -> None:
        """Raise for a prompt that is not known before the scans of other body parts are sought, or generated."""
        asked = scan.get(MIMKeys.PROMPTS) or self.prompts
        more = [prompt for prompt in self.prompts[1:] if prompt in asked]  # the first was asked for to see how long
        if more:
            self._answers(scan[MIMKeys.IMAGE], more)

    def _affordable(self, scan: Scan) -> dict[str, list[Phrasing]]:
        """Phrases that can be asked on two scans in the time there is; none if not even one of each kind can."""
        counts = (count for each in self.phrases.values() for count in Counter(one.kind for one in each).values())
        most = max(counts, default=1)  # none, where nobody wants another phrase to be asked for
        for _ in range(2):  # the first time, a model may have to be loaded
            start = time.monotonic()
            self._answers(scan[MIMKeys.IMAGE], self.prompts[:1])
            seconds = time.monotonic() - start
            for per_kind in range(most, 0, -1):
                phrases = {prompt: _first_of_each_kind(each, per_kind) for prompt, each in self.phrases.items()}
                minutes = LEAST_SCANS * seconds * sum(1 + len(each) for each in phrases.values()) / 60
                if minutes <= self.max_minutes:
                    if per_kind < most:
                        logger.warning(
                            "A phrase takes %.1f seconds a scan: the gate asks %d of each kind, not %d.",
                            seconds, per_kind, most,
                        )  # fmt: skip
                    return phrases
        logger.warning(
            "No gate: on %d scans it would take about %.0f minutes. Allow it with --gate_minutes, or see whether a "
            "cheaper localizer will do.",
            LEAST_SCANS, minutes,
        )  # fmt: skip
        return {}

    def _look(self) -> list[dict[str, ScanAnswers]]:
        """Answers a scan and prompt, on as many scans as the time allows."""
        start, answers = time.monotonic(), []
        for scan in tqdm(islice(self._read(self.scans), self.wanted), desc="gate", unit="scan", total=self.wanted):
            asked = scan.get(MIMKeys.PROMPTS) or self.prompts
            answers.append({prompt: self._scan(scan, prompt) for prompt in self.prompts if prompt in asked})
            spent = time.monotonic() - start
            enough = len(answers) >= LEAST_SCANS
            if enough and spent * (1 + 1 / len(answers)) > 60 * self.max_minutes and len(answers) < self.wanted:
                logger.warning(
                    "The gate looked at %d of %d scans within %g minutes.",
                    len(answers),
                    self.wanted,
                    self.max_minutes,
                )
                break
        return answers

    def _read(self, loaders: Sequence[Callable[[], Scan]]) -> Iterator[Scan]:
        for load in loaders:
            try:
                scan = load()
            except ScanError as error:
                if not self.skip_bad:
                    raise
                logger.warning("Left out of the gate: %s", error)
                continue
            yield scan

    def _scan(self, scan: Scan, prompt: str) -> ScanAnswers:
        image, scan_id = asked_for(scan[MIMKeys.IMAGE], prompt), str(scan.get(MIMKeys.SCAN_ID, ""))
        (own,), (target,) = self._answers(image, [prompt])
        texts = [phrase.text for phrase in self._asked[prompt]]
        compared: list[Answer] = []
        chunk = max(1, VOXELS_AT_ONCE // target.size)
        for first in range(0, len(texts), chunk):
            compared += self._answers(image, texts[first : first + chunk], target, refusable=True)[0]
        others = {name: self._agreement(other, image, prompt, target) for name, other in self.others.items()}
        return ScanAnswers(
            scan_id=scan_id,
            target=own,
            phrasings=tuple(compared),
            others={name: value for name, value in others.items() if value is not None},
            blind=self._blind(image, target),
            truth=self._truth(scan, target),
        )

    def _answers(
        self, image: Tensor, texts: Sequence[str], target: np.ndarray | None = None, refusable: bool = False
    ) -> tuple[list[Answer], list[np.ndarray]]:
        """Answers to phrases, compared with the target's map if there is one, and their maps (zero if refused)."""
        maps = self._maps(image, texts, refusable)
        zero = np.zeros(tuple(image.shape[1:]), dtype=np.float32)
        found = [zero if each is None else each for each in maps]
        answers = []
        for raw, each in zip(maps, found, strict=True):
            similarity = 1.0 if target is None else region_similarity(each, target, self.threshold)
            answers.append(
                Answer(
                    # A refusal is no map: it can be right (a foreign phrase) or wrong (a synonym), never alike.
                    similarity=0.0 if raw is None else similarity,
                    coverage=float((each >= (self.threshold or 0.5)).mean()),
                    score=_score(each),
                    refused=raw is None,
                )
            )
        return answers, found

    def _maps(self, image: Tensor, texts: Sequence[str], refusable: bool) -> list[np.ndarray | None]:
        """A map a phrase; None where the localizer does not know it (raised, if that may not be)."""
        if not refusable:
            return list(_as_array(self.localizer.localize(image, texts)))
        found: dict[str, np.ndarray | None] = {}
        # Phrases that were refused before are asked alone: one of them spoils the answer to all.
        together = [text for text in texts if text not in self._refused]
        alone = [text for text in texts if text in self._refused]
        while together:
            try:
                found.update(zip(together, _as_array(self.localizer.localize(image, together)), strict=True))
                break
            except UnknownPromptError as error:
                spoiling = [error.prompt] if error.prompt in together else list(together)
                self._refused.update(spoiling)
                alone += spoiling
                together = [text for text in together if text not in spoiling]
        for text in alone:
            try:
                found[text] = _as_array(self.localizer.localize(image, [text]))[0]
            except UnknownPromptError:
                found[text] = None
        return [found[text] for text in texts]

    def _agreement(self, other: Localizer, image: Tensor, prompt: str, target: np.ndarray) -> float | None:
        try:
            found = _as_array(other.localize(image, [prompt]))[0]
        except UnknownPromptError:
            return None
        return region_similarity(found, target, self.threshold)

    def _blind(self, image: Tensor, target: np.ndarray) -> dict[str, float]:
        """Similarity with maps that see no prompt, cut down to the target's area."""
        area = float(np.clip((target >= (self.threshold or 0.5)).mean(), *DISC_LIMITS))
        disc = _as_array(CentredDisc(area).localize(image, [""]))[0]
        body = _as_array(BodyOnly().localize(image, [""]))[0]
        return {
            "centred disc": region_similarity(disc, target, self.threshold),
            # Not cut down: a small region inside the body is no copy of it.
            "body": _plain_overlap(body, target, self.threshold),
        }

    def _truth(self, scan: Scan, target: np.ndarray) -> dict[str, float] | None:
        if "mask" in scan:
            mask = _as_array(scan["mask"])[0]
            truth = self.target(mask) if self.target is not None else mask > 0
        elif scan.get("boxes"):
            truth = in_boxes(boxes_in_memory(scan["boxes"], scan["image"]), target.shape)
        else:
            return None
        return compare_with_truth(target, truth, self.threshold or 0.5) if truth.any() else None

    def _by_prompt(self, answers: Sequence[Mapping[str, ScanAnswers]]) -> dict[str, list[ScanAnswers]]:
        """Answers a prompt; a prompt that none of the drawn scans was to be asked for has no gate."""
        found = {prompt: [each[prompt] for each in answers if prompt in each] for prompt in self.prompts}
        for prompt in [prompt for prompt, each in found.items() if not each]:
            logger.warning("No scan drawn for the gate is to be asked for %r: draw more (--gate_scans).", prompt)
            del found[prompt]
        return found

    def _judge(
        self, prompt: str, scans: Sequence[ScanAnswers], elsewhere: Sequence[Mapping[str, Answer]]
    ) -> PromptGate:
        asked = self._asked[prompt]
        measures = measure_prompt(scans, [phrase.kind for phrase in asked], [each[prompt] for each in elsewhere])
        verdict, reasons = judge(measures, self.rules)
        rows = [_phrase_row(phrase, [scan.phrasings[index] for scan in scans]) for index, phrase in enumerate(asked)]
        return PromptGate(verdict, reasons, measures.as_dict(), rows)

    def _write(self, record: GateRecord) -> None:
        record.save(self.output_dir)
        write_atomically(self.output_dir / "gate.csv", lambda path: _write_table(path, record))
        figure = gate_figure(
            {prompt: vars(gate) for prompt, gate in record.prompts.items()}, f"{record.dataset}, {record.scans} scans"
        )
        write_atomically(self.output_dir / "gate.png", lambda path: figure.savefig(path, format="png"))
        for prompt, gate in record.prompts.items():
            level = logging.INFO if gate.verdict == "use" else logging.WARNING
            logger.log(level, "Gate, %r on %d scans: %s. %s.", prompt, record.scans, gate.verdict.upper(), _list(gate))
        logger.info("Look at %s.", self.output_dir / "gate.png")


def _as_array(maps: Tensor) -> np.ndarray:
    plain = maps.as_tensor() if isinstance(maps, MetaTensor) else maps
    return plain.detach().to("cpu", torch.float32).numpy()


def _score(values: np.ndarray) -> float:
    count = max(1, round(TOP_SHARE * values.size))
    return float(np.partition(values.ravel(), -count)[-count:].mean())


def _plain_overlap(first: np.ndarray, second: np.ndarray, threshold: float | None) -> float:
    """Intersection over union (or Ruzicka similarity) without any cutting down."""
    if threshold is not None:
        first, second = first >= threshold, second >= threshold
    union = float(np.maximum(first, second).sum())
    return float(np.minimum(first, second).sum()) / union if union else 1.0


def _first_of_each_kind(phrases: Sequence[Phrasing], count: int) -> list[Phrasing]:
    seen: Counter[str] = Counter()
    kept = []
    for phrase in phrases:
        seen[phrase.kind] += 1
        if seen[phrase.kind] <= count:
            kept.append(phrase)
    return kept


def _phrase_row(phrase: Phrasing, answers: Sequence[Answer]) -> dict[str, Any]:
    means = {name: round(float(np.mean([getattr(each, name) for each in answers])), 4) for name in _FIGURES}
    return {"text": phrase.text, "kind": phrase.kind, **means, "refused": all(each.refused for each in answers)}


_FIGURES = ("similarity", "coverage", "score")


def _write_table(path: Path, record: GateRecord) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["prompt", "kind", "text", *_FIGURES, "refused"])
        writer.writeheader()
        for prompt, gate in record.prompts.items():
            writer.writerows({"prompt": prompt, **row} for row in gate.phrasings)


def _list(gate: PromptGate) -> str:
    return "; ".join(gate.reasons)
