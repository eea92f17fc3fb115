# SPDX-License-Identifier: Apache-2.0
"""The files of a study: every run, one table, one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom.files import write_atomically
from custom.metrics.segmentation import without
from custom.tasks.results import write_json, write_table
from custom.tasks.task_run import versions
from custom.workflows.study.figure import study_figure
from custom.workflows.study.intervals import Estimate
from custom.workflows.study.plan import SCRATCH, Condition, Pair
from custom.workflows.study.results import SPLITS, Comparison
from custom.workflows.study.verdict import Roles, judge, signed, verdict

_HEADINGS = ("learning", "pretraining", "hidden", "seeds", "val", "test", "minus", "on val", "on test")
_ALIKE = 0.005  # shares of hidden cells that differ by less are the same budget


@dataclass(frozen=True)
class Subject:
    """What a study is about, for its report.

    - ``dataset``, ``prompt``, ``task``: as given; ``figure``: place of the figure of merit.
    - ``budgets``: ratio -> visible cells; empty where arms hide as their files say.
    - ``pairs``: of seeds; ``pretrain_seeds``: how many different ones pretraining has.
    - ``gate``: what the gate said, in words; ``missing``: runs without figures and why; ``settings``: all, JSON-able.
    """

    dataset: str
    prompt: str
    task: str
    figure: str
    budgets: Mapping[float, int]
    pairs: Sequence[Pair]
    pretrain_seeds: int
    gate: str
    missing: Mapping[str, str]
    settings: Mapping[str, Any]


def write_report(folder: Path, comparisons: Mapping[str, Comparison], roles: Roles, subject: Subject) -> list[str]:
    """Write ``study.csv``, ``study.md``, ``study.json`` and ``study.png``; return the sentences of the verdict."""
    said = {learning: verdict(each, roles, subject.figure) for learning, each in comparisons.items()}
    sentences = [f"{learning}. {each}" for learning, found in said.items() for each in found]
    notes = remarks(comparisons, roles, subject)
    write_table(folder / "study.csv", [run.as_row() for each in comparisons.values() for run in each.outcomes])
    text = markdown(comparisons, roles, subject, said, notes)
    write_atomically(folder / "study.md", lambda target: target.write_text(text, encoding="utf-8"))
    title = f'{subject.dataset}, "{subject.prompt}"' if subject.prompt else subject.dataset
    picture = study_figure(comparisons, subject.figure, title)
    write_atomically(folder / "study.png", lambda target: picture.savefig(target, format="png"))
    content = {
        "figure": subject.figure,
        "verdict": said,
        "remarks": notes,
        "conditions": [row for learning, each in comparisons.items() for row in _conditions(learning, each, roles)],
        "runs": [run.as_row() for each in comparisons.values() for run in each.outcomes],
        "missing": dict(subject.missing),
        "settings": dict(subject.settings),
        "versions": versions(),
    }
    write_json(folder / "study.json", content)
    return sentences


def markdown(
    comparisons: Mapping[str, Comparison],
    roles: Roles,
    subject: Subject,
    said: Mapping[str, Sequence[str]],
    notes: Sequence[str],
) -> str:
    """Return the report as text: verdict, table, what to know."""
    asked = f' by "{subject.prompt}"' if subject.prompt else ""
    lines = [f"# Study: masking{asked} against masking at random", ""]
    for learning, sentences in said.items():
        lines += [f"**{learning[0].upper()}{learning[1:]}.**", "", *[f"- {sentence}" for sentence in sentences], ""]
    rows = [row for learning, each in comparisons.items() for row in _rows(learning, each, roles)]
    lines += [f"| {' | '.join(row)} |" for row in (list(_HEADINGS), ["---"] * len(_HEADINGS), *rows)]
    lines += ["", *[f"- {note}" for note in notes], ""]
    if subject.missing:
        lines += ["**Missing:**", "", *[f"- {name}: {cause}" for name, cause in subject.missing.items()], ""]
    return "\n".join(lines)


def _rows(learning: str, comparison: Comparison, roles: Roles) -> list[list[str]]:
    rows = []
    for condition in comparison.conditions:
        other = roles.control_of(condition) if condition.arm != SCRATCH else None
        hidden = comparison.hidden(condition)
        differences = [comparison.difference(condition, other, split) if other else None for split in SPLITS]
        said = {split: without(comparison.left_out(condition, split)) for split in SPLITS}
        rows.append(
            [
                learning,
                condition.name,
                "–" if hidden is None else f"{100 * hidden:.1f} %",
                f"{len(comparison.figures(condition, 'test'))} of {len(comparison.of(condition))}",
                *[_mean(comparison.estimate(condition, split)) + words for split, words in said.items()],
                other.name if other and differences[0] else "–",
                *[signed(each) for each in differences],
            ]
        )
    return rows


def _mean(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:.3f}" + ("" if found.spread is None else f" ± {found.spread:.3f}")


def _conditions(learning: str, comparison: Comparison, roles: Roles) -> list[dict[str, Any]]:
    found = []
    for condition in comparison.conditions:
        others = [Condition(SCRATCH), roles.control_of(condition)] if condition.arm != SCRATCH else []
        differences = {
            other.name: {
                split: {**asdict(each), "judged": judge(each, comparison.higher_is_better)}
                for split in SPLITS
                if (each := comparison.difference(condition, other, split))
            }
            for other in others
        }
        estimates = {split: comparison.estimate(condition, split) for split in SPLITS}
        found.append(
            {
                "learning": learning,
                "arm": condition.arm,
                "ratio": condition.ratio,
                "hidden_ratio": comparison.hidden(condition),
                **{split: asdict(each) if each else None for split, each in estimates.items()},
                "left_out": {split: comparison.left_out(condition, split) for split in SPLITS},
                "minus": {name: each for name, each in differences.items() if each},
            }
        )
    return found


def remarks(comparisons: Mapping[str, Comparison], roles: Roles, subject: Subject) -> list[str]:
    """Return what one must know to read the table."""
    any_comparison = next(iter(comparisons.values()))
    better = "more" if any_comparison.higher_is_better else "less"
    count = len(subject.pairs)
    notes = [
        f"`{subject.dataset}`, {subject.task}, figure of merit: `{subject.figure}` ({better} is better). Mean ± "
        f"standard deviation over {count} seed{'s' if count > 1 else ''}; every run: `study.csv`.",
        f"Differences are taken seed by seed; in brackets Student's t interval, {100 * any_comparison.level:g} %. It "
        "says what other seeds might give on these very scans, not what other scans would.",
        "Arms and ratios were chosen on val, so what was chosen looks too good there. Test was not told before all "
        "runs were done: runs that are added now come after a look at it. Only the verdict's differences were chosen "
        "before; of twenty differences one leaves out zero by luck.",
        _about_left_out(comparisons),
        _about_seeds(subject),
        _about_budgets(subject),
        subject.gate,
    ]
    return [note for note in [*notes, *_warnings(any_comparison, roles)] if note]


def _about_seeds(subject: Subject) -> str:
    words = ", ".join(f"{pair.seed} from {pair.pretrain_seed}" for pair in subject.pairs)
    if len(subject.pairs) == 1:
        return f"Seeds of fine-tuning and pretraining: {words}. One repetition has no spread and no interval."
    if subject.pretrain_seeds == 1:
        return (
            f"Seeds of fine-tuning and pretraining: {words}. There is one encoder an arm: spread and intervals are "
            "those of fine-tuning, and what another pretraining would change is not in them (`--pretrain_seeds`)."
        )
    if subject.pretrain_seeds < len(subject.pairs):
        return (
            f"Seeds of fine-tuning and pretraining: {words}. Runs from one encoder were averaged before the interval "
            f"was taken, over {subject.pretrain_seeds} seeds of pretraining."
        )
    return f"Seeds of fine-tuning and pretraining: {words}. Intervals cover the luck of both."


def _about_left_out(comparisons: Mapping[str, Comparison]) -> str:
    runs = [run for each in comparisons.values() for run in each.outcomes]
    if not any(counts for run in runs for counts in run.left_out.values()):
        return ""
    return (
        "In brackets behind val and test, summed over the seeds: scans of a class that the figure of merit leaves out, "
        "because the class was missed, invented or absent. Read a figure that leaves out what was missed beside them."
    )


def _about_budgets(subject: Subject) -> str:
    if not subject.budgets:
        return (
            "Every arm hid as its file says: see `hidden`. Where that differs, so does the budget, not the place alone."
        )
    words = ", ".join(f"{cells} at {ratio:g}" for ratio, cells in subject.budgets.items())
    return f"Equal budgets: every arm showed exactly as many cells of every scan: {words}."


def _warnings(comparison: Comparison, roles: Roles) -> list[str]:
    found = []
    for condition in filter(roles.is_guided, comparison.conditions):
        shares = [
            each.masking["fallback_share"] for each in comparison.of(condition) if "fallback_share" in each.masking
        ]
        if shares and (share := sum(shares) / len(shares)) > 0.05:
            found.append(
                f"{condition.name}: {100 * share:.0f} % of the scans had no region, or nothing else, and were masked "
                "at random."
            )
        mine, control = comparison.hidden(condition), comparison.hidden(roles.control_of(condition))
        if mine is not None and control is not None and abs(mine - control) > _ALIKE:
            found.append(
                f"{condition.name} hid {100 * mine:.1f} % and its control {100 * control:.1f} % of the cells: their "
                "difference is not that of the place alone."
            )
    return found
