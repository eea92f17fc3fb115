# SPDX-License-Identifier: Apache-2.0
"""The order of events of a study: localize, pretrain every arm, learn from every encoder, compare."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.gate import DO_NOT_USE, GateRecord
from custom.locks import only_one
from custom.options import flag, mapping
from custom.preprocessing import Intensity
from custom.workflows.prompts import is_looked_up, named_prompts
from custom.workflows.study.plan import (
    FINE_TUNING,
    LOCALIZATION,
    PRETRAINING,
    PROBE,
    SCRATCH,
    Arm,
    Condition,
    Pair,
    Step,
    listed,
    load_arms,
    make_pairs,
    visible_cells,
)
from custom.workflows.study.report import Subject, write_report
from custom.workflows.study.results import Comparison, Outcome, figure_of, read_outcome
from custom.workflows.study.running import (
    BundleRuns,
    RunConfig,
    check_same,
    is_done,
    perform,
    read_json,
    seconds_left,
)
from custom.workflows.study.verdict import Roles
from datasets import load_datalist

logger = logging.getLogger(__name__)

TASKS = ("classify", "detect", "train")
MATCHED = "region_matched_random"
# How a task reads scans must not depend on whether it starts from an encoder, which would bring these with it.
_READING = ("backbone", "channels", "spacing", "frame", "crop_to_body", "air_threshold", "image_size")
_OURS = ("dataset_dir", "output_dir", "resume", "skip_bad", "seed", "bundle_root")
_OF_PRETRAINING = ("masking", "mask_options", "region_dir", "prompt", "prompts", "heed_gate")
_OF_TASKS = ("encoder", "train_scans", "probe", "model")


class Study:
    """Compares what is hidden in pretraining by what a task learns from it, on a user's scans.

    Region maps are made once; every arm is pretrained at every ratio, and the task is learnt from every encoder and
    from none, with every pair of seeds (``make_pairs``). Each run has a folder, is made once, and goes on where it was
    stopped when the study is run again. Runs that fail are reported; the others go on.

    Args:
        bundle_root: holds ``configs``.
        dataset_dir: labelled scans; pretraining takes those of the train split, labelled or not.
        output_dir: where runs and results go.
        prompt: as for ``pretrain.yaml``.
        region_dir: region maps made before; None: made here.
        arms: names of files of ``configs/masking``.
        ratios: share of the cells that every arm hides; empty: each as its file says.
        control: the arm that those of the prompt are compared with; None: random masks of the same budget.
        scratch: whether to learn the task without pretraining, too.
        heed_gate: leave out the arms that follow the prompt if the gate says not to use its maps.
        task: name of a task's config: classify, detect, train.
        fine_tuning, probe: how to learn it.
        train_scans: how many labelled scans to learn from; None: all.
        figure_of_merit: place of a figure in the blocks of ``metrics.json``; None: the task's usual one.
        higher_is_better: whether more of it is better.
        seeds: of learning the task; pretrain_seeds: of pretraining, as many or a fraction of as many.
        level: of the intervals.
        localize_options, pretrain_options, task_options: further settings of the configs.
        skip_bad: leave out scans that cannot be read.
        run: runs a config; None: as ``python -m monai.bundle run`` would, in this process.

    Raises:
        ValueError: if something cannot be compared in this way; the message says what to change.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        output_dir: str | Path,
        prompt: str | Sequence[str] | None = None,
        region_dir: str | Path | None = None,
        arms: Sequence[str] | str = ("random", "region"),
        ratios: Sequence[float] | str | None = (0.6,),
        control: str | None = None,
        scratch: bool | str = True,
        heed_gate: bool | str = True,
        task: str = "classify",
        fine_tuning: bool | str = True,
        probe: bool | str = False,
        train_scans: int | None = None,
        figure_of_merit: str | None = None,
        higher_is_better: bool | str = True,
        seeds: Sequence[int] | str = (0, 1, 2),
        pretrain_seeds: Sequence[int] | str = (0, 1, 2),
        level: float = 0.95,
        localize_options: Mapping[str, Any] | str | None = None,
        pretrain_options: Mapping[str, Any] | str | None = None,
        task_options: Mapping[str, Any] | str | None = None,
        skip_bad: bool | str = False,
        run: RunConfig | None = None,
    ) -> None:
        self.configs = Path(bundle_root) / "configs"
        self.run_config = run or BundleRuns(bundle_root)
        self.dataset_dir, self.output_dir = str(dataset_dir), Path(output_dir)
        self.prompt, self.region_dir = prompt, region_dir
        self.skip_bad = flag(skip_bad, "skip_bad")
        self.heed_gate = flag(heed_gate, "heed_gate")
        if task not in TASKS:
            raise ValueError(f"--task must be one of {', '.join(TASKS)}, received {task!r}.")
        self.task, self.train_scans = task, train_scans
        self.learnings = _learnings(task, flag(fine_tuning, "fine_tuning"), flag(probe, "probe"))
        self.figure, self.higher_is_better = figure_of_merit, flag(higher_is_better, "higher_is_better")
        self.level = float(level)
        if not 0 < self.level < 1:
            raise ValueError(f"--level must lie in (0, 1), received {level}.")
        self.options = {
            "localize": self._options(localize_options, "localize", ("prompt",)),
            "pretrain": self._options(pretrain_options, "pretrain", _OF_PRETRAINING),
            task: self._options(task_options, task, _OF_TASKS),
        }
        self.pairs = make_pairs(_whole(seeds, "seeds"), _whole(pretrain_seeds, "pretrain_seeds"))
        datalist = load_datalist(dataset_dir)
        self.scans = _digest(datalist.items)
        self.phrases = [] if is_looked_up(prompt) else named_prompts(prompt, datalist.items)
        self.reading = self._reading(datalist.spatial_dims)
        self.budgets = self._budgets([float(each) for each in listed(ratios, "ratios")])
        self.ratios: list[float | None] = list(self.budgets) or [None]
        self.arms = self._different(load_arms(self.configs / "masking", listed(arms, "arms")))
        self.roles = self._roles(control)
        self.mask_options = {
            (arm.name, ratio): arm.options(self.budgets[ratio] if ratio is not None else None)
            for arm, ratio in product(self.arms, self.ratios)
        }
        self.has_scratch = flag(scratch, "scratch")
        if not self.has_scratch and len(self.arms) < 2:
            raise ValueError("There is nothing to compare: name two --arms, or set --scratch true.")

    # ------------------------------------------------------------------------------------------ what to compare

    def _options(self, given: Mapping[str, Any] | str | None, config: str, decided: Sequence[str]) -> dict[str, Any]:
        """Options of a config; what it does not have, or the study decides, is refused."""
        name = "task_options" if config in TASKS else f"{config}_options"
        options = mapping(given, name)
        known = ConfigParser.load_config_file(str(self.configs / f"{config}.yaml"))
        unknown = [each for each in options if each.replace("::", "#").split("#")[0] not in known]
        if unknown:
            raise ValueError(f"--{name}: {config}.yaml has no setting {', '.join(unknown)}.")
        ours = [each for each in options if each in (*_OURS, *decided)]
        if ours:
            raise ValueError(f"--{name}: {', '.join(ours)} is decided by the study itself; see its own settings.")
        return options

    def _reading(self, spatial_dims: int) -> dict[str, Any]:
        """How scans are read and by which network, as pretraining does it."""
        parser = ConfigParser(ConfigParser.load_config_file(str(self.configs / "pretrain.yaml")))
        parser.update({"spatial_dims": spatial_dims, **json.loads(json.dumps(self.options["pretrain"]))})
        found = {name: parser.get_parsed_content(name) for name in (*_READING, "cell_size")}
        found["crop_to_body"] = flag(found["crop_to_body"], "crop_to_body")
        if Intensity.of(parser.get_parsed_content("intensity")) != Intensity.of("percentile"):  # the tasks' own
            found["intensity"] = parser["intensity"]  # as it was written: a transform is built by each run
        return found

    def _budgets(self, ratios: Sequence[float]) -> dict[float, int]:
        if len(set(ratios)) < len(ratios):
            raise ValueError(f"--ratios: one is named twice in {list(ratios)}.")
        return {ratio: visible_cells(ratio, self.reading["image_size"], self.reading["cell_size"]) for ratio in ratios}

    def _different(self, arms: list[Arm]) -> list[Arm]:
        """Leave out what would be the same run twice: at equal budgets the matched control is random masking."""
        names = [arm.name for arm in arms]
        if self.budgets and "random" in names and MATCHED in names:
            logger.info("At equal budgets %s masks exactly as random does: it is not run a second time.", MATCHED)
            return [arm for arm in arms if arm.name != MATCHED]
        return arms

    def _roles(self, control: str | None) -> Roles:
        guided = [arm.name for arm in self.arms if arm.guided]
        unguided = [arm.name for arm in self.arms if not arm.guided]
        preferred = [name for name in unguided if name == MATCHED] if not self.budgets else []
        chosen = control or next(iter([*preferred, *unguided]), None)
        if chosen not in unguided:
            raise ValueError(
                f"--control {chosen} must be one of --arms whose masks do not follow the prompt "
                f"({', '.join(unguided) or 'there is none: add random'})."
            )
        return Roles(guided, chosen, len(self.pairs) > 1 == len({pair.pretrain_seed for pair in self.pairs}))

    # ------------------------------------------------------------------------------------------ the runs

    def steps(self) -> list[Step]:
        """Return all runs in order: every comparison is complete for one pair of seeds before the next one starts."""
        regions = self._localization()
        steps = [regions] if regions else []
        made: dict[Path, Step] = {}
        for pair in self.pairs:
            if self.has_scratch:
                steps += self._tasks(Condition(SCRATCH), pair, None)
            for ratio, arm in product(self.ratios, self.arms):
                pretraining = self._pretraining(arm, ratio, pair, regions, made)
                steps += [pretraining, *self._tasks(Condition(arm.name, ratio), pair, pretraining)]
        return list(dict.fromkeys(steps))

    def _localization(self) -> Step | None:
        if self.region_dir or not any(arm.strategy.needs_region for arm in self.arms):
            return None
        settings = {**self._common(), "prompt": self.prompt, **self.options["localize"]}
        return Step(LOCALIZATION, "localize", self.output_dir / "regions", settings, noted={"scans": self.scans})

    def _pretraining(
        self, arm: Arm, ratio: float | None, pair: Pair, regions: Step | None, made: dict[Path, Step]
    ) -> Step:
        """The pretraining of an arm; pairs with the same seed of pretraining share it."""
        condition = Condition(arm.name, ratio)
        folder = self.output_dir / condition.folder / f"encoder_seed_{pair.pretrain_seed}"
        # Without a region to look at, scans that name their own prompt would be localized for nothing.
        regional: dict[str, Any] = {"prompts": []}
        if arm.strategy.needs_region:
            regional = {"prompt": self.prompt, "region_dir": str(self.region_dir or self.output_dir / "regions")}
            regional["heed_gate"] = False  # heard by the study: an arm must be what its name says
        settings = {
            **self._common(),
            **self.options["pretrain"],
            **regional,
            "masking": arm.masking,
            "mask_options": self.mask_options[arm.name, ratio],
            "seed": pair.pretrain_seed,
        }
        after = regions if arm.strategy.needs_region else None
        noted = {"masking_file": dict(arm.content), "scans": self.scans}
        step = Step(PRETRAINING, "pretrain", folder, settings, after, condition, pair, arm.guided, noted)
        return made.setdefault(folder, step)

    def _tasks(self, condition: Condition, pair: Pair, pretraining: Step | None) -> Iterator[Step]:
        above = pretraining.folder if pretraining else self.output_dir / condition.folder
        for learning in self.learnings:
            settings = {
                **self._common(),
                **{name: value for name, value in self.reading.items() if name != "cell_size"},
                **self.options[self.task],
                **({"probe": learning == PROBE} if self.task == "classify" else {}),
                "train_scans": self.train_scans,
                "encoder": str(pretraining.folder / "encoder.safetensors") if pretraining else None,
                "seed": pair.seed,
            }
            folder = above / f"{learning.replace('-', '_').replace(' ', '_')}_{self.task}_seed_{pair.seed}"
            noted = {"scans": self.scans}
            yield Step(learning, self.task, folder, settings, pretraining, condition, pair, noted=noted)

    def _common(self) -> dict[str, Any]:
        return {"dataset_dir": self.dataset_dir, "skip_bad": self.skip_bad}

    # ------------------------------------------------------------------------------------------ running and reporting

    def run(self) -> dict[str, Any]:
        """Make what is missing, then write the results.

        Returns:
            The content of ``study.json``.

        Raises:
            ValueError: if a run was made with other settings, or another process works on this study.
            RuntimeError: if no run has any figure.
        """
        with only_one(self.output_dir, "on this study"):
            steps = self.steps()
            for step in steps:  # before any time is spent
                check_same(step)
            return self._report(steps, self._make(steps))

    def _make(self, steps: Sequence[Step]) -> dict[Step, str]:
        """Make the missing runs; return why some could not be made."""
        problems: dict[Step, str] = {}
        todo = sum(not is_done(step) for step in steps)
        logger.info("Study: %d runs, %d of them to be made.", len(steps), todo)
        for number, step in enumerate(steps, 1):
            if is_done(step):
                continue
            problem = self._obstacle(step, problems)
            if problem is None:
                left = seconds_left([each for each in steps if each not in problems])
                logger.info("Run %d of %d: %s.%s", number, len(steps), step.name, _in_words(left))
                problem = perform(step, self.run_config)
            if problem is not None:
                problems[step] = problem
                logger.warning("Run %d of %d, %s: %s", number, len(steps), step.name, problem)
            elif step.kind in self.learnings:
                outcome = read_outcome(step, None, self.figure)
                logger.info("%s: %s on val.", step.name, outcome.figures.get("val"))
        return problems

    def _obstacle(self, step: Step, problems: Mapping[Step, str]) -> str | None:
        """Why a run cannot or must not begin; None if it may."""
        if step.after is not None and step.after in problems:
            return f"no {step.after.kind} to start from ({problems[step.after]})"
        if step.guided and self.heed_gate and self._refused():
            return "the gate says not to use the maps; --heed_gate false compares them all the same"
        return None

    def _gate(self) -> dict[str, tuple[str, Sequence[str]]]:
        """Verdict and reasons of the gate, by prompt; empty if there is none."""
        record = GateRecord.load(self.region_dir or self.output_dir / "regions")
        if record is None:
            return {}
        asked = [prompt for prompt in self.phrases if prompt in record.prompts] or list(record.prompts)
        return {prompt: (record.prompts[prompt].verdict, record.prompts[prompt].reasons) for prompt in asked}

    def _refused(self) -> bool:
        return any(said == DO_NOT_USE for said, _ in self._gate().values())

    def _report(self, steps: Sequence[Step], problems: Mapping[Step, str]) -> dict[str, Any]:
        outcomes = [
            read_outcome(step, problems.get(step), self.figure) for step in steps if step.kind in self.learnings
        ]
        if not any(each.figures for each in outcomes):
            causes = "; ".join(dict.fromkeys(problems.values()))
            raise RuntimeError(f"None of the {len(outcomes)} runs of this study has a figure: {causes}.")
        comparisons = {
            learning: Comparison(
                [each for each in outcomes if each.step.kind == learning], self.level, self.higher_is_better
            )
            for learning in self.learnings
        }
        sentences = write_report(self.output_dir, comparisons, self.roles, self._subject(outcomes, problems))
        for sentence in sentences:
            logger.info("%s", sentence)
        if problems:
            logger.error("%d runs are missing, see study.md. The same command tries them again.", len(problems))
        logger.info("Look at %s, study.png and study.csv.", self.output_dir / "study.md")
        return read_json(self.output_dir / "study.json")

    def _subject(self, outcomes: Sequence[Outcome], problems: Mapping[Step, str]) -> Subject:
        first = next(each for each in outcomes if each.figures)
        missing = {step.name: problem for step, problem in problems.items()}
        missing |= {each.step.name: each.problem for each in outcomes if each.problem and each.step not in problems}
        return Subject(
            dataset=self.dataset_dir,
            prompt=", ".join(self.phrases) or str(self.prompt or ""),
            task=self.task,
            figure=figure_of(read_json(first.step.folder / "metrics.json"), self.figure),
            budgets=self.budgets,
            pairs=self.pairs,
            pretrain_seeds=len({pair.pretrain_seed for pair in self.pairs}),
            gate=self._gate_in_words(),
            missing=missing,
            settings=self._settings(),
        )

    def _gate_in_words(self) -> str:
        if not self.roles.guided:
            return ""
        said = [f'"{prompt}": {word} ({"; ".join(why)})' for prompt, (word, why) in self._gate().items()]
        return f"Gate: {'. '.join(said)}." if said else "No gate has looked at the prompt."

    def _settings(self) -> dict[str, Any]:
        return {
            **self._common(),
            "scans": self.scans,
            "prompt": self.prompt,
            "region_dir": str(self.region_dir) if self.region_dir else None,
            "arms": {arm.name: dict(arm.content) for arm in self.arms},
            "control": self.roles.control,
            "visible_cells": {str(ratio): count for ratio, count in self.budgets.items()},
            "task": self.task,
            "train_scans": self.train_scans,
            "pairs": [{"seed": pair.seed, "pretrain_seed": pair.pretrain_seed} for pair in self.pairs],
            "level": self.level,
            "higher_is_better": self.higher_is_better,
            "reading": self.reading,
            "options": self.options,
        }


def _learnings(task: str, fine_tuning: bool, probe: bool) -> list[str]:
    if probe and task != "classify":
        raise ValueError(f"--probe: {task}.yaml knows no linear probe; only classify.yaml does.")
    learnings = [FINE_TUNING] * fine_tuning + [PROBE] * probe
    if not learnings:
        raise ValueError("Neither --fine_tuning nor --probe is true: there is nothing to measure encoders by.")
    return learnings


def _whole(values: Any, name: str) -> list[int]:
    found = listed(values, name)
    if any(isinstance(each, bool) or not isinstance(each, int) for each in found):
        raise ValueError(f'--{name} must be whole numbers such as "[0, 1, 2]", received {values!r}.')
    return found


def _digest(items: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of which scans there are, and how they are split and labelled."""
    known = sorted([str(item["scan_id"]), str(item.get("split")), str(item.get("label"))] for item in items)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _in_words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60
    if minutes < 1.5:
        return " About a minute still."
    return f" About {minutes:.0f} minutes still." if minutes < 120 else f" About {minutes / 60:.1f} hours still."
