# SPDX-License-Identifier: Apache-2.0
"""How localizers bear other words for a target: synonyms, slips, orders; and words for something else.

    python -m benchmarks.phrasings --data $MWM_DATA --split test

Asks localizers for the phrases of ``benchmarks/phrasings.yaml`` on real scans. Writes
``benchmarks/results/phrasings.md`` (by kind) and ``.csv`` (by phrase); other splits: ``phrasings_<split>``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks.localization import TASKS, Task, scans
from benchmarks.tables import write_table
from custom.localizers import ConceptLocalizer, Localizer, UnknownPromptError
from custom.metrics.localization import compare_with_truth
from custom.prompts import KINDS
from custom.workflows import load_localizer

CONFIGS = Path(__file__).resolve().parents[1] / "bundle" / "configs"
PHRASINGS = Path(__file__).with_suffix(".yaml")
RESULTS = Path(__file__).resolve().parent / "results"
MEASURES = ("dice", "recall", "hit", "coverage", "same")
DRAWS = 1000


@dataclass(frozen=True)
class Question:
    """A target of a set, and the phrases that ask for it or for something else.

    - ``task``: set and target, as in ``benchmarks.localization``.
    - ``modality``: of the set's scans.
    - ``phrases``: phrase and kind, the target first.
    """

    task: Task
    modality: str
    phrases: tuple[tuple[str, str], ...]


@dataclass
class Answers:
    """What a localizer said to each phrase on each scan: ``understood`` and the measures, ``[scans, phrases]`` each."""

    values: dict[str, np.ndarray]


def main() -> None:
    """Ask, measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument(
        "--localizer", nargs="+", default=["concept", "disc", "body"], help="files of configs/localizers, or paths"
    )
    parser.add_argument("--limit", type=int, default=24, help="so many scans a set, a fixed draw (0: all)")
    parser.add_argument("--phrasings", type=Path, default=PHRASINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    by_kind: list[dict[str, str]] = []
    by_phrase: list[dict[str, str]] = []
    for question in read_questions(arguments.phrasings):
        for name in arguments.localizer:
            answers = ask(question, localizer_for(name, question), scans(question.task, arguments))
            by_kind += kind_rows(question, name, answers)
            by_phrase += phrase_rows(question, name, answers)
            print(f"{question.task.dataset}, {question.task.prompt}: {name}, {time.process_time() - start:.0f} s")
    stem = RESULTS / ("phrasings" if arguments.split == "test" else f"phrasings_{arguments.split}")
    write(by_kind, by_phrase, stem, arguments, time.process_time() - start)


def read_questions(path: Path) -> list[Question]:
    """Read the phrases; ValueError if a kind or a target is unknown."""
    questions = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        unknown = sorted(set(entry["phrasings"]) - set(KINDS))
        if unknown:
            raise ValueError(f"{path}: {entry['target']!r}: unknown kind {unknown[0]!r}; known: {', '.join(KINDS)}.")
        phrases = [(entry["target"], "target")]
        phrases += [(text, kind) for kind in KINDS for text in entry["phrasings"].get(kind, [])]
        questions.append(Question(_task(entry["dataset"], entry["target"], path), entry["modality"], tuple(phrases)))
    return questions


def _task(dataset: str, target: str, path: Path) -> Task:
    """The set's target as ``benchmarks.localization`` defines it, whose prompts may add " on x-ray" to the name."""
    for task in TASKS:
        if task.dataset == dataset and task.prompt.split(" on ")[0] == target:
            return Task(dataset, target, task.wrong, task.target)
    raise ValueError(f"{path}: benchmarks.localization has no target {target!r} in the set {dataset!r}.")


def localizer_for(name: str, question: Question) -> Localizer:
    """Build a localizer; the embedded one is told the modality of the set, as a user would."""
    localizer = load_localizer(CONFIGS, name)
    if isinstance(localizer, ConceptLocalizer):
        return load_localizer(CONFIGS, name, {"modality": question.modality})
    return localizer


def ask(question: Question, localizer: Localizer, cases: Iterable[tuple[torch.Tensor, np.ndarray]]) -> Answers:
    """Ask for every phrase on every scan; a phrase that is refused has an empty map."""
    texts = [text for text, _ in question.phrases]
    rows: list[list[dict[str, float]]] = []
    for image, target in cases:
        maps = answer(localizer, image, texts)
        measured: dict[bytes, dict[str, float]] = {}  # phrases that are read alike have one map
        row = []
        for text in texts:
            found = maps.get(text, np.zeros(target.shape, dtype=np.float32))
            key = found.tobytes()
            if key not in measured:
                asked_first = maps.get(texts[0], np.zeros_like(found))
                measured[key] = {**compare_with_truth(found, target), "same": soft_iou(found, asked_first)}
            row.append({**measured[key], "understood": float(text in maps)})
        rows.append(row)
    names = (*MEASURES, "understood")
    return Answers({name: np.array([[each[name] for each in row] for row in rows]) for name in names})


def answer(localizer: Localizer, image: torch.Tensor, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the maps of the phrases that the localizer does not refuse, all asked for in one call."""
    left = list(texts)
    while left:
        try:
            return dict(zip(left, localizer.localize(image, left).numpy(), strict=True))
        except UnknownPromptError as error:
            left.remove(error.prompt)
    return {}


def soft_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Sum of the smaller over sum of the larger probabilities; 1 for two empty maps."""
    larger = float(np.maximum(first, second).sum())
    return float(np.minimum(first, second).sum()) / larger if larger > 0 else 1.0


def kind_rows(question: Question, name: str, answers: Answers) -> list[dict[str, str]]:
    """One row a kind, in their order; a single one for a localizer that says the same whatever it is asked."""
    if (answers.values["same"] == 1).all() and answers.values["understood"].all():
        return [kind_row(question, name, "any words", range(len(question.phrases)), answers)]
    columns = {kind: [at for at, (_, each) in enumerate(question.phrases) if each == kind] for kind in KINDS}
    return [kind_row(question, name, kind, places, answers) for kind, places in columns.items() if places]


def kind_row(question: Question, name: str, kind: str, columns: Sequence[int], answers: Answers) -> dict[str, str]:
    """Means over some phrases: with an interval over scans, and the range over phrases."""
    row = {
        "dataset": question.task.dataset,
        "target": question.task.prompt,
        "localizer": Path(name).stem,
        "kind": kind,
        "phrases": str(len(columns)),
        "understood": f"{answers.values['understood'][:, columns].mean():.2f}",
    }
    for measure in MEASURES:
        chosen = answers.values[measure][:, columns]
        each = chosen.mean(axis=0)
        spread = f"; {each.min():.2f} to {each.max():.2f}" if np.ptp(each) > 0.005 else ""
        row[measure] = f"{interval(chosen.mean(axis=1))}{spread}"
    return row


def phrase_rows(question: Question, name: str, answers: Answers) -> list[dict[str, str]]:
    """One row a phrase: means with intervals over scans."""
    return [
        {
            "dataset": question.task.dataset,
            "target": question.task.prompt,
            "localizer": Path(name).stem,
            "kind": kind,
            "phrase": text,
            "scans": str(len(answers.values["understood"])),
            "understood": f"{answers.values['understood'][:, index].mean():.2f}",
            **{measure: interval(answers.values[measure][:, index]) for measure in MEASURES},
        }
        for index, (text, kind) in enumerate(question.phrases)
    ]


def interval(values: np.ndarray) -> str:
    """Mean over scans with a 95 % bootstrap interval."""
    draws = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def write(
    by_kind: Sequence[dict[str, str]],
    by_phrase: Sequence[dict[str, str]],
    stem: Path,
    arguments: argparse.Namespace,
    seconds: float,
) -> None:
    """Write the table by kind as Markdown, the one by phrase as CSV."""
    scans_of = {row["dataset"]: row["scans"] for row in by_phrase}
    drawn = ", ".join(f"{name} {count}" for name, count in scans_of.items())
    head = (
        f"# Phrasings: {', '.join(f'`{Path(name).stem}`' for name in arguments.localizer)}, split {arguments.split}\n\n"
        f"Scans, a fixed draw: {drawn}. {seconds:.0f} seconds of one core.\n\n{EXPLANATION}\n"
    )
    write_table(by_kind, stem, head)
    markdown = stem.with_suffix(".md").read_text(encoding="utf-8")
    write_table(by_phrase, stem, head)
    stem.with_suffix(".md").write_text(markdown, encoding="utf-8")


EXPLANATION = """\
Each phrase of [`phrasings.yaml`](../phrasings.yaml) asked on each scan. *understood*: share of phrases that were not
refused as unknown; a refused one counts as an empty map. *dice*, *recall*, *coverage* (share of the picture): at
probability 0.5. *hit*: the map's maximum lies in the target (pointing accuracy). *same*: soft intersection over union
(sum of the smaller over sum of the larger probabilities) with the map of the target's own phrase. Means over phrases
and scans, 95 % bootstrap intervals over scans, then the range of the phrases' means where they differ. Masks (box for
`brain_mri_cheng`) are those of the *target*, whatever was asked: for synonyms, paraphrases, misspellings and word
orders high figures are good; for other organs (the other lung among them), absent concepts and nonsense a map like
the target's (*same*, *dice*) means that the prompt was not heeded. `disc` and `body` see no prompt. `concept` is told
the modality of the set; the names of its vocabulary and the library's synonyms were written by the same people, which
favours it, and the misspellings it forgives are single slips like those drawn here. The first look at val made two
readings of its vocabulary better ("neoplasm" is a tumor; a finding goes before its organ) and one refusal (the lung
beside the heart is a lung). Every phrase has a row in the CSV file."""


if __name__ == "__main__":
    main()
