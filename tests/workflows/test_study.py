# SPDX-License-Identifier: Apache-2.0
"""Studies whose runs are stood in for by hand-made numbers: what is run, what is refused, what is concluded."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from custom.gate import GateRecord
from custom.gate.record import PromptGate
from custom.workflows.study import Study, report, running
from custom.workflows.study.running import RECORD, in_one_line
from datasets.phantoms import ensure_phantoms

T_1 = 12.706204736432095  # 97.5 % quantile of Student's t with one degree of freedom

# (arm, ratio or None) -> a figure on val and on test for each seed.
FIGURES: dict[str, tuple[list[float], list[float]]] = {
    "from scratch": ([0.50, 0.54], [0.50, 0.52]),
    "random 0.5": ([0.60, 0.64], [0.60, 0.64]),
    "random 0.75": ([0.58, 0.60], [0.90, 0.90]),  # best on test alone: must not be chosen
    "region 0.5": ([0.61, 0.63], [0.70, 0.70]),
    "region 0.75": ([0.66, 0.70], [0.62, 0.66]),
}


class Runs:
    """Stands in for the configs: leaves what they leave, with hand-made figures."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.settings: list[dict[str, Any]] = []
        self.failing: dict[str, Exception] = {}
        self.gate = "use"

    def __call__(self, config: str, settings: dict[str, Any]) -> None:
        folder = Path(settings["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        self.made.append((config, folder.name))
        self.settings.append(settings)
        for part, error in self.failing.items():
            if part in f"{config} {folder}":
                raise RuntimeError("wrapped by MONAI") from error
        getattr(self, config)(folder, settings)

    def localize(self, folder: Path, settings: dict[str, Any]) -> None:
        gate = PromptGate(self.gate, ["because"], {}, [])
        GateRecord({}, "", 1, 0.5, {"brain tumor": gate}, {}).save(folder)
        (folder / "summary.json").write_text('{"prompts": {}}')

    def pretrain(self, folder: Path, settings: dict[str, Any]) -> None:
        share = 1 - settings["mask_options"].get("visible_cells", 40) / 64
        (folder / "history.csv").write_text(f"epoch,hidden_ratio,region_share,fallback_share\n1,{share},0.2,0.125\n")
        for ending in ("safetensors", "json"):
            (folder / f"encoder.{ending}").write_text("{}")

    def classify(self, folder: Path, settings: dict[str, Any]) -> None:
        encoder = settings["encoder"]
        name = "from scratch" if encoder is None else Path(encoder).parents[1].name.replace("_", " ", 1)
        val, test = FIGURES[name]
        index = settings["seed"] - 10
        blocks = {"val": {"macro_auroc": val[index]}, "test": {"macro_auroc": test[index], "accuracy": None}}
        for split, figures in (("val", val), ("test", test)):
            blocks[split]["classes"] = {
                "lump": {"hd95": figures[index], "missed": index + 1, "invented": 0, "absent": 0}
            }
        (folder / "metrics.json").write_text(json.dumps({"task": "classification", **blocks}))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    counts = {"train": 3, "val": 1, "test": 1}
    return ensure_phantoms("brain_mri", 2, tmp_path_factory.mktemp("scans"), size=32, counts=counts)


class Picture:
    """Stands in for the figure, which takes as long as all else."""

    def savefig(self, target: Path, format: str) -> None:
        target.write_text(format)


@pytest.fixture
def study(scans, tmp_path, repository, monkeypatch):
    monkeypatch.setattr(running, "free_memory", lambda: None)  # nothing here needs it, and it takes a second
    monkeypatch.setattr(report, "study_figure", lambda *_: Picture())
    runs = Runs()

    def make(**settings: Any) -> Study:
        given = {
            "arms": ["random", "region"],
            "ratios": [0.5, 0.75],
            "seeds": [10, 11],
            "pretrain_seeds": [0, 1],
            "pretrain_options": {"image_size": [64, 64], "backbone": "resnet18_narrow"},
            **settings,
        }
        return Study(repository / "bundle", scans, tmp_path / "study", run=runs, **given)

    make.runs, make.folder = runs, tmp_path / "study"
    return make


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "study.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_run_is_made_once_and_all_arms_are_run_alike(study):
    study().run()
    made = study.runs.made
    assert len(made) == 1 + 2 * (1 + 2 * 2 * 2)
    assert made[0] == ("localize", "regions")
    pretrained = [each for each in study.runs.settings if "masking" in each]
    assert {each["mask_options"]["visible_cells"] for each in pretrained} == {32, 16}
    own = {"masking", "mask_options", "seed", "output_dir", "prompts", "prompt", "region_dir", "heed_gate"}
    assert len({json.dumps({k: v for k, v in each.items() if k not in own}) for each in pretrained}) == 1
    learnt = [each for each in study.runs.settings if "encoder" in each]
    # Scratch and pretrained runs read the scans in the same way, by the same network.
    alike = {
        json.dumps({k: v for k, v in each.items() if k not in ("encoder", "seed", "output_dir")}) for each in learnt
    }
    assert len(alike) == 1
    assert learnt[0]["backbone"] == "resnet18_narrow"
    assert learnt[0]["image_size"] == [64, 64]
    study().run()
    assert study.runs.made == made


def test_grey_levels_are_scaled_alike_with_and_without_an_encoder(study):
    """An encoder brings its own; what is learnt from scratch must be told of others than the usual ones."""
    options = {"image_size": [64, 64], "backbone": "resnet18_narrow"}
    for intensity in (None, {"scheme": "zscore"}, {"_target_": "NormalizeIntensityd", "keys": "image"}):
        given = {} if intensity is None else {"intensity": intensity}
        made = study(seeds=[10], pretrain_seeds=[0], ratios=[0.5], pretrain_options={**options, **given})
        learnt = [step.settings for step in made.steps() if "encoder" in step.settings]
        assert len(learnt) == 3
        assert all(each.get("intensity") == intensity for each in learnt)


def test_what_is_concluded(study):
    found = study().run()
    first, second, third = found["verdict"]["fine-tuning"][1:]
    assert (
        found["verdict"]["fine-tuning"][0]
        == "Best on val: with the prompt region 0.75 (0.680), without it random 0.5 (0.620)."
    )
    # On test: random 0.5 - scratch 0.10, 0.12; region 0.75 - random 0.75 -0.28, -0.24; - random 0.5 0.02, 0.02.
    assert (
        "(random 0.5 − from scratch), test, 2 seeds: macro_auroc +0.110 [-0.017, +0.237]: **not told apart**" in first
    )
    assert "a loss of 0.017 to a gain of 0.237" in first
    assert "(region 0.75 − random 0.75), test, 2 seeds: macro_auroc -0.260 [-0.514, -0.006]: **worse**" in second
    assert "(region 0.75 − random 0.5), test, 2 seeds: macro_auroc +0.020 [+0.020, +0.020]: **better**" in third
    (row,) = [each for each in found["conditions"] if (each["arm"], each["ratio"]) == ("region", 0.75)]
    assert row["val"]["mean"] == pytest.approx(0.68)
    assert row["val"]["spread"] == pytest.approx(0.0008**0.5)
    difference = row["minus"]["random 0.75"]["test"]
    assert difference["mean"] == pytest.approx(-0.26)
    assert difference["high"] == pytest.approx(-0.26 + T_1 * 0.0008**0.5 / 2**0.5)
    assert difference["judged"] == "worse"
    assert set(row["minus"]) == {"from scratch", "random 0.75"}


def test_the_table_and_the_rows(study):
    study().run()
    text = (study.folder / "study.md").read_text()
    line = "| fine-tuning | region 0.75 | 75.0 % | 2 of 2 | 0.680 ± 0.028 | 0.640 ± 0.028 | random 0.75 | +0.090"
    assert line in text
    assert "| fine-tuning | from scratch | – | 2 of 2 | 0.520 ± 0.028 | 0.510 ± 0.014 | – | – | – |" in text
    assert "Equal budgets: every arm showed exactly as many cells of every scan: 32 at 0.5, 16 at 0.75." in text
    assert "Student's t interval, 95 %" in text
    assert "10 from 0, 11 from 1. Intervals cover the luck of both" in text
    assert '"brain tumor": use (because)' in text
    assert "region 0.5: 12 % of the scans had no region" in text
    assert "**Missing" not in text
    found = rows(study.folder)
    assert len(found) == 10
    assert {(each["arm"], each["ratio"], each["pretrain_seed"], each["seed"]) for each in found} >= {
        ("from scratch", "", "", "10"),
        ("random", "0.5", "1", "11"),
    }
    (row,) = [each for each in found if (each["arm"], each["ratio"], each["seed"]) == ("region", "0.75", "11")]
    assert (float(row["val"]), float(row["test"]), float(row["hidden_ratio"])) == (0.70, 0.66, 0.75)
    assert (study.folder / "study.png").read_text() == "png"


def test_seeds_and_ratios_can_be_added(study):
    study(seeds=[10], pretrain_seeds=[0], ratios=[0.5]).run()
    before = len(study.runs.made)
    assert before == 1 + 1 + 2 * 2
    text = (study.folder / "study.md").read_text()
    assert "one independent repetition has no interval and tells nothing apart from luck" in text
    study().run()
    assert len(study.runs.made) == 19
    assert len(set(study.runs.made[before:]) & {("localize", "regions")}) == 0


def test_changed_settings_are_refused_before_anything_is_run(study):
    study = functools.partial(study, ratios=[0.5], seeds=[10], pretrain_seeds=[0])
    study.runs, study.folder = study.func.runs, study.func.folder
    study().run()
    made = len(study.runs.made)
    for changes, message in (
        ({"train_scans": 2}, "train_scans was None, is 2"),
        ({"task_options": {"max_epochs": 3}}, "max_epochs was None, is 3"),
        ({"pretrain_options": {"image_size": [32, 32], "backbone": "resnet18_narrow"}}, r"image_size was \[64, 64\]"),
        ({"prompt": "tumor"}, "prompt was None, is 'tumor'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            study(**changes).run()
        assert str(study.folder) in str(caught.value)
    study(task_options={"num_workers": 1}).run()  # changes no figure
    assert len(study.runs.made) == made
    record = study.folder / "from_scratch" / "fine_tuning_classify_seed_10" / RECORD
    record.unlink()
    with pytest.raises(ValueError, match="a run that no study made"):
        study().run()


def test_other_scans_or_another_masking_file_are_noticed(study, scans, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("_target_: custom.masking.RegionMasking\nregion_ratio: 0.9\n")
    FIGURES["own 0.5"] = FIGURES["region 0.5"]
    settings = {"arms": ["random", str(own)], "ratios": [0.5], "seeds": [10], "pretrain_seeds": [0]}
    study(**settings).run()
    own.write_text("_target_: custom.masking.RegionMasking\nregion_ratio: 0.8\n")
    with pytest.raises(ValueError, match=r"masking_file was .*0.9.*, is .*0.8"):
        study(**settings).run()


def test_a_failing_run_is_reported_and_the_others_go_on(study, caplog):
    cause = ValueError("scan_7.png: cannot be read")
    study.runs.failing = {"pretrain " + str(study.folder / "region_0.75"): cause}
    found = study().run()
    assert len([each for each in study.runs.made if each[0] == "classify"]) == 8
    assert found["missing"]["pretraining, region 0.75, seed 1"] == "scan_7.png: cannot be read"
    waiting = found["missing"]["fine-tuning, region 0.75, seed 11"]
    assert waiting == "no pretraining to start from (scan_7.png: cannot be read)"
    text = (study.folder / "study.md").read_text()
    assert "| fine-tuning | region 0.75 | – | 0 of 2 | – | – | – | – | – |" in text
    assert "- pretraining, region 0.75, seed 0: scan_7.png: cannot be read" in text
    assert "with the prompt region 0.5" in found["verdict"]["fine-tuning"][0]
    assert "4 runs are missing" in caplog.text
    study.runs.failing = {}
    again = study().run()
    assert again["missing"] == {}
    assert len(study.runs.made) == 19 + 2  # only what failed was made again


def test_an_arm_without_every_seed_is_not_chosen(study):
    study.runs.failing = {"classify " + str(study.folder / "region_0.75" / "encoder_seed_1"): OSError("disk full")}
    found = study().run()
    assert "with the prompt region 0.5 (0.620)" in found["verdict"]["fine-tuning"][0]
    assert found["missing"] == {"fine-tuning, region 0.75, seed 11": "OSError: disk full"}
    assert "| fine-tuning | region 0.75 | 75.0 % | 1 of 2 |" in (study.folder / "study.md").read_text()


def test_without_regions_random_arms_go_on(study):
    study.runs.failing = {"localize": ValueError("no weights")}
    found = study().run()
    assert "no arm has a figure for every seed" in found["verdict"]["fine-tuning"][2]
    assert found["missing"]["localization"] == "no weights"
    assert len([each for each in study.runs.made if each[0] == "pretrain"]) == 4


def test_a_study_without_any_figure_says_why(study):
    study.runs.failing = {"classify": ValueError("no labels")}
    with pytest.raises(RuntimeError, match="None of the 10 runs of this study has a figure: no labels"):
        study().run()


def test_the_gate_is_heeded(study):
    study.runs.gate = "do not use"
    found = study().run()
    assert len([each for each in study.runs.made if each[0] == "pretrain"]) == 4
    assert "the gate says not to use the maps" in found["missing"]["pretraining, region 0.5, seed 0"]
    assert "Masking by the prompt: no arm" in found["verdict"]["fine-tuning"][2]
    study(heed_gate=False).run()
    assert len([each for each in study.runs.made if each[0] == "pretrain"]) == 8


def test_a_killed_study_goes_on(study):
    study.runs.failing = {"classify " + str(study.folder / "random_0.5"): KeyboardInterrupt()}
    call = Runs.__call__

    class Killed(Runs):
        def __call__(self, config, settings):
            try:
                call(self, config, settings)
            except RuntimeError as error:
                raise KeyboardInterrupt from error

    study.runs.__class__ = Killed
    with pytest.raises(KeyboardInterrupt):
        study().run()
    done = list(study.runs.made)
    study.runs.failing = {}
    found = study().run()
    assert found["missing"] == {}
    assert study.runs.made[len(done)] == done[-1]  # where it was
    assert study.runs.settings[len(done)]["resume"] is True
    assert len(study.runs.made) == 19 + 1


def test_two_processes_do_not_work_on_one_study(study):
    second = study()

    def run(config, settings):
        with pytest.raises(ValueError, match="another process works on this study"):
            second.run()
        Runs.__call__(study.runs, config, settings)

    first = study(seeds=[10], pretrain_seeds=[0], ratios=[0.5])
    first.run_config = run
    first.run()


def test_budgets_as_the_files_say(study):
    FIGURES["random"] = FIGURES["region"] = FIGURES["random 0.5"]
    FIGURES["region matched_random"] = FIGURES["random 0.75"]
    found = study(arms=["random", "region", "region_matched_random"], ratios=None).run()
    pretrained = [each for each in study.runs.settings if "masking" in each]
    assert all(each["mask_options"] == {} for each in pretrained)
    assert len(pretrained) == 6
    assert "(region − region_matched_random)" in found["verdict"]["fine-tuning"][2]
    text = (study.folder / "study.md").read_text()
    assert "Every arm hid as its file says" in text
    assert [arm.name for arm in study(arms=["random", "region", "region_matched_random"]).arms] == ["random", "region"]


def test_a_figure_that_leaves_out_what_was_missed_says_so(study):
    study(figure_of_merit="classes.lump.hd95", higher_is_better=False, ratios=[0.5]).run()
    text = (study.folder / "study.md").read_text()
    assert "| 0.510 ± 0.014 (without 3 missed) |" in text, (
        "of the test scans from scratch, one with seed 10, two with 11"
    )
    assert "summed over the seeds: scans of a class that the figure of merit leaves out" in text
    assert {row["test_left_out"] for row in rows(study.folder)} == {"1", "2"}
    found = json.loads((study.folder / "study.json").read_text())
    assert all(each["left_out"] == {"val": {"missed": 3}, "test": {"missed": 3}} for each in found["conditions"])


def test_one_encoder_an_arm_and_lower_is_better(study):
    found = study(pretrain_seeds=[3], higher_is_better=False).run()
    assert len([each for each in study.runs.made if each[0] == "pretrain"]) == 4
    assert "with the prompt region 0.5 (0.620), without it random 0.75 (0.590)" in found["verdict"]["fine-tuning"][0]
    text = (study.folder / "study.md").read_text()
    assert "There is one encoder an arm" in text
    # region 0.5 - random 0.5 on test: 0.10 and 0.06, higher, hence worse, but the interval holds zero.
    assert "a loss of 0.334 to a gain of 0.174" in found["verdict"]["fine-tuning"][2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "guess"}, "--task must be one of classify, detect, train"),
        ({"task": "train", "probe": True}, "train.yaml knows no linear probe"),
        ({"fine_tuning": "false"}, "nothing to measure"),
        ({"arms": ["region"]}, "add random"),
        ({"control": "region"}, "--control region must be one of"),
        ({"arms": ["random"], "scratch": False}, "nothing to compare"),
        ({"ratios": [0.5, 1]}, "hiding 1 of 64 cells leaves 0"),
        ({"ratios": [0.5, 0.5]}, "named twice"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"level": 95}, "--level"),
        ({"pretrain_options": {"max_epoch": 3}}, "pretrain.yaml has no setting max_epoch"),
        ({"pretrain_options": {"mask_options": {}}}, "mask_options is decided by the study"),
        ({"task_options": {"encoder": "x"}}, "encoder is decided by the study"),
        ({"localize_options": {"output_dir": "x"}}, "output_dir is decided by the study"),
    ],
)
def test_what_cannot_be_compared_is_refused(study, settings, message):
    with pytest.raises(ValueError, match=message):
        study(**settings)


@pytest.mark.parametrize(
    ("figure", "message"),
    [("auroc", "no such figure; val and test hold macro_auroc"), ("macro_auroc.x", "no such figure")],
)
def test_figures_that_there_are_not(study, figure, message):
    with pytest.raises(ValueError, match=message):
        study(figure_of_merit=figure).run()


def test_the_error_that_started_it_is_told():
    error = RuntimeError("outer")
    error.__cause__ = RuntimeError("inner")
    error.__cause__.__cause__ = KeyError("name")
    assert in_one_line(error) == "KeyError: 'name'"
    assert in_one_line(ValueError("a file\n is bad")) == "a file is bad"
