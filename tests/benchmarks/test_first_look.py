# SPDX-License-Identifier: Apache-2.0
"""The first look's table says what its runs say."""

from __future__ import annotations

import json

import pytest
from monai.bundle import ConfigParser

from benchmarks import first_look

STUDY = {
    "title": "a title",
    "dataset": "a set",
    "seeds": [0, 1],
    "arms": {"from scratch": None, "region 0.7/0.3": {"masking": "region", "prompt": "tumor"}},
    "common": {"backbone": "resnet18_narrow", "image_size": [64, 64]},
    "pretrain": {"max_epochs": 3},
    "evaluations": {"linear probe": {"probe": True}},
}


def finish(output, arm, seed, accuracy):
    folder = first_look.run_folder(output, arm, seed) / "linear_probe"
    folder.mkdir(parents=True)
    figures = {"accuracy": accuracy, "balanced_accuracy": 0.5, "macro_auroc": 0.75}
    test = {**figures, "intervals": {"macro_auroc": [0.7, 0.8]}}
    (folder / "metrics.json").write_text(json.dumps({"test": test, "val": figures}))


def test_table_has_mean_spread_and_interval_of_the_finished_runs(tmp_path):
    finish(tmp_path, "from scratch", 0, 0.5)
    finish(tmp_path, "from scratch", 1, 0.7)
    first_look.write_tables(STUDY, tmp_path, tmp_path / "results" / "first_look")
    table = (tmp_path / "results" / "first_look.md").read_text()
    assert "| linear probe | from scratch | 2 | 60.0 ± 14.1 | 50.0 ± 0.0 | 75.0 ± 0.0 [70.0, 80.0] |" in table
    assert "| region" not in table
    assert len((tmp_path / "results" / "first_look.csv").read_text().splitlines()) == 3


def test_finished_work_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(first_look, "run", lambda *_, **__: pytest.fail("ran again"))
    finish(tmp_path, "from scratch", 0, 0.5)
    folder = first_look.run_folder(tmp_path, "from scratch", 0) / "linear_probe"
    first_look.evaluate(STUDY["common"], {}, None, 0, tmp_path, folder)
    assert first_look.pretrain(STUDY, "from scratch", 0, tmp_path, tmp_path) is None


def test_region_arms_read_maps_that_are_made_once(tmp_path, monkeypatch):
    calls = []

    def run(config, **options):
        calls.append((config, options))
        if config == "localize":
            folder = tmp_path / "out" / "regions" / "tumor"
            folder.mkdir(parents=True)
            (folder / "summary.json").touch()

    monkeypatch.setattr(first_look, "run", run)
    for seed in STUDY["seeds"]:
        first_look.pretrain(STUDY, "region 0.7/0.3", seed, tmp_path, tmp_path / "out")
    assert [config for config, _ in calls] == ["localize", "pretrain", "pretrain"]
    assert calls[1][1]["region_dir"] == str(tmp_path / "out" / "regions" / "tumor")
    assert [options["seed"] for _, options in calls[1:]] == [0, 1]


def test_a_table_says_which_command_makes_it():
    assert first_look.command("first_look") == "python -m benchmarks.first_look"
    made = first_look.command("decoders_ct_sarscov2")
    assert made.endswith("--settings benchmarks/decoders_ct_sarscov2.yaml --output output/decoders_ct_sarscov2")


@pytest.mark.parametrize("name", ["first_look", "decoders_brain_mri_cheng", "decoders_ct_sarscov2"])
def test_shipped_settings_name_what_exists(configs, name):
    study = ConfigParser.load_config_file(f"benchmarks/{name}.yaml")
    for arm in study["arms"].values():
        assert arm is None or (configs / "masking" / f"{arm['masking']}.yaml").is_file()
        assert arm is None or (configs / "decoders" / f"{arm.get('decoder', 'thin')}.yaml").is_file()
    assert (configs / "encoders" / f"{study['common']['backbone']}.yaml").is_file()
