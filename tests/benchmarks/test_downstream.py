# SPDX-License-Identifier: Apache-2.0
"""The downstream study: each run once, by one process; a table that says what the runs say; guesses."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from monai.bundle import ConfigParser

from benchmarks import downstream, studies, trivial
from benchmarks.downstream import Job

SCRATCH, RANDOM, REGION = "from scratch", "random 0.6 (SparK)", "region 0.7/0.3"
STUDY = {
    "title": "a title",
    "seeds": [0, 1],
    "pretrain_seeds": [0, 1],
    "arms": {SCRATCH: None, RANDOM: {"masking": "spark"}, REGION: {"masking": "region"}},
    "sets": {
        "a_set": {
            "prompt": "tumor",
            "common": {"backbone": "resnet18_narrow"},
            "pretrain": {"max_epochs": 3},
            "options": {"coco": "c.json"},
            "tasks": {"detection": {"max_epochs": 7}},
        }
    },
    "pretrain": {"cell_size": 8},
    "tasks": {
        "detection": {
            "kind": "detection",
            "config": "detect",
            "options": {"max_epochs": 5, "batch_size": 4},
            "figures": {"AP50": "ap50", "HD95": ["per.hd", 1]},
        }
    },
    "differences": [[RANDOM, SCRATCH], [REGION, RANDOM]],
}


@pytest.fixture
def calls(monkeypatch):
    """Runs that write what real ones would, and are noted."""
    made = []

    def run(config, **options):
        made.append((config, options))
        folder = studies.Path(options["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        if config == "localize":
            (folder / "summary.json").touch()
        elif config == "pretrain":
            (folder / "encoder.safetensors").touch()
            (folder / "encoder.json").touch()
        else:
            (folder / "metrics.json").write_text(json.dumps({"test": {"ap50": 0.5, "per": {"hd": 2.0}}}))

    monkeypatch.setattr(downstream, "run", run)
    return made


def finish(output, arm, seed, ap50, hd=1.0):
    folder = downstream.job_folder(output, Job("a_set", "detection", arm, seed))
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"test": {"ap50": ap50, "per": {"hd": hd}}}))
    (folder / "seconds.json").write_text(json.dumps({"seconds": 9.0, "cpu_seconds": 7.0}))


def do_all(tmp_path, encoders=None):
    return [downstream.do(STUDY, job, tmp_path / "data", tmp_path / "out", encoders) for job in downstream.jobs(STUDY)]


def test_everything_is_done_once(tmp_path, calls):
    assert do_all(tmp_path) == [True] * 6
    assert [config for config, _ in calls] == [
        *["detect", "pretrain", "detect", "localize", "pretrain", "detect"],
        *["detect", "pretrain", "detect", "pretrain", "detect"],
    ]
    before = len(calls)
    assert do_all(tmp_path) == [False] * 6
    assert len(calls) == before


def test_runs_get_their_options_encoder_and_seed(tmp_path, calls):
    do_all(tmp_path)
    detections = [options for config, options in calls if config == "detect"]
    assert [options["seed"] for options in detections] == [0, 0, 0, 1, 1, 1]
    assert detections[0]["encoder"] is None
    assert detections[4]["encoder"].endswith("a_set/random_0_6__SparK/seed_1/encoder.safetensors")
    assert detections[2]["coco"] == "c.json"
    assert detections[2]["max_epochs"] == 7, "the set's own options count most"
    assert detections[2]["batch_size"] == 4
    regions = [options for config, options in calls if config == "pretrain" and "region_dir" in options]
    assert [options["masking"] for options in regions] == ["region", "region"]
    assert regions[0]["prompt"] == "tumor"
    assert regions[0]["cell_size"] == 8


def test_a_claimed_run_is_left_to_its_process(tmp_path, calls):
    job = next(downstream.jobs(STUDY))
    folder = downstream.job_folder(tmp_path / "out", job)
    with studies.claimed(folder) as first, studies.claimed(folder) as second:
        assert (first, second) == (True, False)
        assert not downstream.do(STUDY, job, tmp_path / "data", tmp_path / "out")
    assert not calls
    assert downstream.do(STUDY, job, tmp_path / "data", tmp_path / "out"), "a claim ends with its holder"


def test_an_encoder_in_the_making_is_waited_for(tmp_path, calls):
    job = Job("a_set", "detection", RANDOM, 0)
    with studies.claimed(studies.run_folder(tmp_path / "out" / "a_set", RANDOM, 0)):
        assert not downstream.do(STUDY, job, tmp_path / "data", tmp_path / "out")
    assert not calls


def test_encoders_of_another_study_are_taken_when_they_are_ready(tmp_path, calls):
    theirs = tmp_path / "theirs"
    folder = studies.run_folder(theirs / "a_set", RANDOM, 1)
    folder.mkdir(parents=True)
    (folder / "encoder.safetensors").touch()
    assert do_all(tmp_path, theirs) == [True, False, False, True, False, False], "weights without their record"
    (folder / "encoder.json").touch()
    assert do_all(tmp_path, theirs) == [False, False, False, False, True, False]
    assert calls[-1][1]["encoder"] == str(folder / "encoder.safetensors")
    assert {config for config, _ in calls} == {"detect"}


def test_table_has_means_spreads_and_paired_differences(tmp_path):
    for seed, (scratch, random) in enumerate([(0.5, 0.6), (0.3, 0.5)]):
        finish(tmp_path, SCRATCH, seed, scratch)
        finish(tmp_path, RANDOM, seed, random, 3.0)
    finish(tmp_path, REGION, 0, 0.55, None)
    guesses = downstream.guess_file(tmp_path, "a_set", "detection", 0)
    guesses.parent.mkdir(parents=True)
    guesses.write_text(json.dumps({"median box": {"ap50": 0.01, "per": {"hd": None}}}))
    downstream.write_tables(STUDY, tmp_path, tmp_path / "results" / "downstream")
    lines = (tmp_path / "results" / "downstream.md").read_text().splitlines()
    assert "| a_set | guess: median box | 1 | 1.0 | – |  |" in lines
    assert "| a_set | from scratch | 2 | 40.0 ± 14.1 | 1.0 ± 0.0 | 7 |" in lines
    assert "| a_set | region 0.7/0.3 | 1 | 55.0 | – | 7 |" in lines
    finish(tmp_path, REGION, 1, 0.65, 2.0)
    downstream.write_tables(STUDY, tmp_path, tmp_path / "results" / "downstream")
    again = (tmp_path / "results" / "downstream.md").read_text()
    assert "| a_set | region 0.7/0.3 | 2 | 60.0 ± 7.1 | 2.0 (1 of 2) | 7 |" in again
    assert "| a_set | random 0.6 (SparK) − from scratch | 2 | 15.0 ± 7.1 | 2.0 ± 0.0 |" in lines
    assert "| a_set | region 0.7/0.3 − random 0.6 (SparK) | 1 | -5.0 | – |" in lines
    rows = (tmp_path / "results" / "downstream.csv").read_text().splitlines()
    assert "a_set,detection,from scratch,1,AP50,0.3" in rows
    assert "a_set,detection,guess: median box,0,HD95," in rows


def test_table_says_if_runs_share_an_encoder():
    shared = downstream.markdown({**STUDY, "pretrain_seeds": [0]}, {})
    assert "The 2 runs of an arm start from 1 pretrained encoder:" in shared
    assert "start from" not in downstream.markdown(STUDY, {})


def test_seconds_are_noted(tmp_path, calls):
    job = Job("a_set", "detection", SCRATCH, 0)
    downstream.do(STUDY, job, tmp_path / "data", tmp_path / "out")
    seconds = json.loads((downstream.job_folder(tmp_path / "out", job) / "seconds.json").read_text())
    assert seconds["seconds"] >= 0
    assert downstream.finished(STUDY, tmp_path / "out")[job]["AP50"] == 0.5


def test_only_some_sets_and_tasks(tmp_path):
    study = copy.deepcopy(STUDY)
    study["sets"]["another"] = study["sets"]["a_set"]
    assert {job.name for job in downstream.jobs(study, ["another"])} == {"another"}
    assert not list(downstream.jobs(study, None, ["segmentation"]))


def test_shipped_settings_name_what_exists(configs):
    study = ConfigParser.load_config_file("benchmarks/downstream.yaml")
    for arm in study["arms"].values():
        assert arm is None or (configs / "masking" / f"{arm['masking']}.yaml").is_file()
    for settings in study["sets"].values():
        assert (configs / "encoders" / f"{settings['common']['backbone']}.yaml").is_file()
        assert set(settings["tasks"]) <= set(study["tasks"])
    for task in study["tasks"].values():
        config = ConfigParser.load_config_file(str(configs / f"{task['config']}.yaml"))
        assert set(task["options"]) <= set(config), "every option is one of the config's"
        assert "HD95" not in task["figures"] or {"missed", "invented"} <= set(task["figures"]), "what HD95 leaves out"
    for pair in study["differences"]:
        assert set(pair) <= set(study["arms"])


def scan(size, *boxes, masks=False):
    values = np.array([box[1:] for box in boxes], dtype=np.float32).reshape(-1, 4)
    truth = {"boxes": values, "labels": np.array([box[0] for box in boxes], dtype=np.int64)}
    if masks:
        truth["masks"] = np.zeros((len(boxes), *size), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(truth["masks"], values.astype(int), strict=True):
            mask[x0:x1, y0:y1] = True
    return trivial.ObjectScan(size, truth)


def test_guessed_boxes_are_medians_in_shares_of_the_picture():
    train = [
        scan((10, 20), (0, 1, 2, 3, 4)),
        scan((20, 40), (0, 2, 4, 6, 8), (1, 0, 0, 10, 10)),
        scan((10, 20), (0, 9, 9, 10, 10)),
    ]
    guesses = trivial.object_guesses(train, 2)
    found = guesses["median box"]((100, 200))
    assert found["boxes"] == pytest.approx(np.array([[10, 20, 30, 40], [0, 0, 50, 50]]))
    assert found["scores"].tolist() == [1, pytest.approx(1 / 3)]
    assert guesses["median box, commonest class"]((100, 200))["labels"].tolist() == [0]
    assert guesses["box in the middle"]((100, 200))["boxes"][1] == pytest.approx([25, 75, 75, 125])
    with pytest.raises(ValueError, match="class 2"):
        trivial.object_guesses(train, 3)


def test_guessed_masks_are_what_most_training_masks_cover():
    train = [scan((64, 64), (0, 8, 8, 24, 40), masks=True) for _ in range(2)] + [
        scan((64, 64), (0, 8, 8, 24, 24), masks=True)
    ]
    guesses = trivial.object_guesses(train, 1, masks=True)
    found = guesses["mean mask over 0.5"]((64, 64))
    assert np.array_equal(found["masks"][0], train[0].truth["masks"][0])
    assert found["boxes"].tolist() == [[8, 8, 24, 40]]
    assert guesses["mean mask, median size"]((64, 64))["masks"].sum() == 16 * 32
    assert guesses["median box"]((64, 64))["masks"].sum() == 16 * 32
    apart = [scan((64, 64), (0, 8 * i, 0, 8 * i + 8, 8), masks=True) for i in range(4)]
    nothing = trivial.object_guesses(apart, 1, masks=True)["mean mask over 0.5"]((64, 64))
    assert nothing["masks"].shape == (0, 64, 64)
    assert nothing["boxes"].shape == (0, 4)


def test_guessed_label_maps():
    labels = np.zeros((16, 16, 16), dtype=np.int64)
    labels[4:12, 4:8, 4:12], labels[4:12, 8:10, 4:12] = 1, 2
    guesses = trivial.label_guesses([trivial.LabelScan(labels, (1.0, 1.0, 1.0))] * 2, 2)
    twice = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.mean(guesses["mean mask"]((32, 32, 32)) == twice) > 0.98
    assert np.mean(guesses["mean mask, median size"]((32, 32, 32)) == twice) > 0.98
    middle = guesses["box in the middle"]((32, 32, 32))
    assert middle.sum() == 16 * 12 * 16
    assert middle[16, 16, 16] == 1


def test_guesses_reach_on_real_scans_what_their_readme_says(data_root):
    reports = trivial.trivial_reports("detection", data_root / "cxr_lungs", {"coco": "coco_lungs_{split}.json"}, 0)
    assert 0.5 < reports["median box"]["ap50"] < 0.9
    assert reports["median box"]["ap75"] < 0.3
    assert reports["box in the middle"]["ap50"] < 0.05


def test_runs_share_encoders_in_turn_where_there_are_fewer() -> None:
    study = {"seeds": [4, 5, 6], "pretrain_seeds": [0, 1]}
    assert [downstream.pretraining_seed(study, seed) for seed in study["seeds"]] == [0, 1, 0]


def test_the_table_says_what_a_set_has_otherwise() -> None:
    study = {
        "tasks": {"detection": {"config": "detect", "options": {"train_scans": 256}}},
        "sets": {"brain": {"tasks": {"detection": {}}}, "lungs": {"tasks": {"detection": {"train_scans": None}}}},
    }
    assert downstream.settings_line(study, "detection") == "`detect.yaml`: train_scans 256. `lungs`: train_scans all."
