# SPDX-License-Identifier: Apache-2.0
"""From a localizer's answers on some scans to the figures that the verdict rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SAME = ("synonym", "paraphrase", "misspelling", "word order")
"""Kinds of phrases that mean what the prompt means: the map should stay."""
FOREIGN = ("other organ", "absent concept", "nonsense")
"""Kinds of phrases that do not: the map should change or vanish."""
DRAWS = 1000


@dataclass(frozen=True)
class Answer:
    """A localizer's answer to a phrase on a scan.

    - ``similarity``: to the map of the target, see :func:`custom.gate.similarity.region_similarity`.
    - ``coverage``: share of voxels that are region.
    - ``score``: mean probability of the highest hundredth of voxels.
    - ``refused``: the localizer said that it does not know the phrase; similarity, coverage and score are then 0.
    """

    similarity: float
    coverage: float
    score: float
    refused: bool = False


@dataclass(frozen=True)
class ScanAnswers:
    """All that is known of a scan.

    - ``scan_id``: its name.
    - ``target``: the answer to the prompt itself.
    - ``phrasings``: the answers to the other phrases, in their order.
    - ``others``: name of another localizer -> similarity of its map to the target's.
    - ``blind``: name of a localizer that sees no prompt -> similarity of its map, at the target's area.
    - ``truth``: comparison with the scan's mask or boxes, where there are any.
    """

    scan_id: str
    target: Answer
    phrasings: tuple[Answer, ...]
    others: Mapping[str, float] = field(default_factory=dict)
    blind: Mapping[str, float] = field(default_factory=dict)
    truth: Mapping[str, float] | None = None

    @property
    def found(self) -> bool:
        """Whether the prompt found anything."""
        return self.target.coverage > 0


@dataclass(frozen=True)
class PromptMeasures:
    """Figures of a prompt; None where they cannot be had.

    - ``found``: share of scans on which the prompt finds anything; ``coverage``: mean share of voxels on those.
    - ``sensitivity``: 1 - mean similarity between the target's map and those of foreign phrases.
    - ``stability``: mean similarity between the target's map and those of phrases that mean the same.
    - ``heeding``: how often a phrase that means the same gives a map nearer to the target's than a foreign phrase does
      (area under the ROC curve, within each scan; 0.5 = the words do not matter).
    - ``presence``: how often a scan of the set scores higher than one of another body part (area under the ROC curve).
    - ``agreement``: similarity with other localizers; ``blind_distance``: 1 - similarity with maps that see no prompt.
    - ``truth``: against masks or boxes.
    - ``intervals``: measure -> its 95 % bootstrap interval over scans.
    """

    scans: int
    other_scans: int
    found: float
    coverage: float | None
    sensitivity: float | None
    stability: float | None
    heeding: float | None
    presence: float | None
    agreement: Mapping[str, float] = field(default_factory=dict)
    blind_distance: Mapping[str, float] = field(default_factory=dict)
    truth: Mapping[str, float] | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, rounded, ready for JSON."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def measure_prompt(
    scans: Sequence[ScanAnswers], kinds: Sequence[str], elsewhere: Sequence[Answer] = (), seed: int = 0
) -> PromptMeasures:
    """Sum up a prompt's answers.

    Scans on which the prompt found nothing say how often that happens and enter ``presence``, nothing else.

    Args:
        scans: answers on scans of the data set.
        kinds: kind of each phrasing, of :data:`SAME` or :data:`FOREIGN`.
        elsewhere: answers to the prompt on scans of other body parts.
        seed: of the bootstrap.

    Raises:
        ValueError: if there is no scan.
    """
    if not scans:
        raise ValueError("The gate measured nothing: there is no scan.")
    found = [scan for scan in scans if scan.found]
    same = _table(found, kinds, SAME)
    foreign = _table(found, kinds, FOREIGN)
    each: dict[str, np.ndarray] = {
        "found": np.array([float(scan.found) for scan in scans]),
        "coverage": np.array([scan.target.coverage for scan in found]),
        "sensitivity": 1 - foreign.mean(axis=1) if foreign.size else np.zeros(0),
        "stability": same.mean(axis=1) if same.size else np.zeros(0),
        "heeding": np.array([roc_area(*pair) for pair in zip(same, foreign, strict=True)])
        if same.size and foreign.size
        else np.zeros(0),
    }
    presence = roc_area([scan.target.score for scan in scans], [answer.score for answer in elsewhere])
    return PromptMeasures(
        scans=len(scans),
        other_scans=len(elsewhere),
        found=float(each["found"].mean()),
        coverage=_mean(each["coverage"]),
        sensitivity=_mean(each["sensitivity"]),
        stability=_mean(each["stability"]),
        heeding=_mean(each["heeding"]),
        presence=presence if elsewhere else None,
        agreement=_means(found, lambda scan: scan.others),
        blind_distance={name: 1 - value for name, value in _means(found, lambda scan: scan.blind).items()},
        truth=_means(scans, lambda scan: scan.truth or {}) or None,
        intervals={name: _interval(values, seed) for name, values in each.items() if values.size > 1},
    )


def roc_area(positives: Sequence[float] | np.ndarray, negatives: Sequence[float] | np.ndarray) -> float:
    """Probability that a positive exceeds a negative, ties counted half; 0.5 if there are none of either."""
    if len(positives) == 0 or len(negatives) == 0:
        return 0.5
    difference = np.subtract.outer(np.asarray(positives, dtype=float), np.asarray(negatives, dtype=float))
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _table(scans: Sequence[ScanAnswers], kinds: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Similarities ``[scans, phrasings]`` of the wanted kinds."""
    columns = [index for index, kind in enumerate(kinds) if kind in wanted]
    return np.array([[scan.phrasings[index].similarity for index in columns] for scan in scans]).reshape(
        len(scans), len(columns)
    )


def _means(scans: Sequence[ScanAnswers], read: Callable[[ScanAnswers], Mapping[str, float]]) -> dict[str, float]:
    """Mean of every entry over the scans that have it."""
    rows = [read(scan) for scan in scans]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).integers(0, values.size, (DRAWS, values.size))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value
