# SPDX-License-Identifier: Apache-2.0
"""What comes back from several machines, and the settings that the GPU study is shipped with."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks.gpu import check, merge, settings
from benchmarks.gpu.results import read_results
from custom.components import load_component


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


class TestMerge:
    @pytest.fixture
    def plan(self, tiny) -> dict:
        return {**tiny, "seeds": [0, 1, 2]}

    @pytest.fixture
    def probes(self, plan) -> list[settings.Run]:
        """The three seeds of one arm."""
        wanted = ("random 0.6 (SparK)", "linear probe")
        return [run for run in settings.planned(plan) if (run.arm, run.evaluation) == wanted]

    def test_mean_and_spread_over_the_seeds_of_several_files(self, plan, probes, tmp_path, a_result):
        for run, accuracy in zip(probes, (0.5, 0.6, 0.7), strict=True):
            (tmp_path / f"{run.seed}.jsonl").write_text(json.dumps(a_result(run, accuracy)) + "\n")
        found = merge.merge(plan, read_results([tmp_path]))
        table = merge.markdown(plan, found)
        assert (
            "| linear probe | random 0.6 (SparK) | 60 % | 3 | 60.0 ± 10.0 | 50.0 ± 0.0 | 75.0 ± 0.0 [70.0, 80.0] |"
            in table
        )
        assert "| linear probe | from scratch |  | 0 |  |  |  |" in table
        assert "3 of 18 planned runs; still missing: 15 of tiny." in table
        assert "3 runs: a GPU" in table

    def test_csv_has_a_line_a_run(self, plan, probes, tmp_path, a_result):
        merge.write_tables(plan, merge.merge(plan, map(a_result, probes)), tmp_path)
        rows = list(csv.DictReader((tmp_path / "gpu_study.csv").read_text().splitlines()))
        assert [row["seed"] for row in rows] == ["0", "1", "2"]
        assert {row["pretraining_images_per_second"] for row in rows} == {"5.0"}

    def test_a_run_that_came_back_twice_counts_once_the_earlier_one(self, plan, probes, a_result):
        later, earlier = a_result(probes[0], 0.9, finished="2026-02-02"), a_result(probes[0], 0.4)
        found = merge.merge(plan, [later, earlier, earlier])
        assert [result["test"]["accuracy"] for result in found.values()] == [0.4]

    def test_different_settings_under_one_name_are_refused(self, plan, probes, a_result):
        results = [a_result(probes[0]), a_result(probes[1], batch_size=8)]
        with pytest.raises(ValueError, match=r"different settings.*pretrain/batch_size \(4 and 8\)"):
            merge.merge(plan, results)
        with pytest.raises(ValueError, match="different settings"):
            merge.merge(plan, [a_result(probes[0]), a_result(probes[0], batch_size=8)])

    def test_what_is_not_planned_is_refused(self, tiny, probes, a_result):
        with pytest.raises(ValueError, match="Not planned: tiny-seed_1"):
            merge.merge(tiny, map(a_result, probes))

    def test_other_files_are_refused(self, tmp_path, capsys):
        (tmp_path / "other.json").write_text('{"loss": 1}')
        assert merge.main([str(tmp_path), "--output", str(tmp_path)]) == 1
        assert "other.json: no result of the study" in capsys.readouterr().out


class TestSettings:
    def test_order_gives_all_arms_of_the_first_set_first(self):
        runs = settings.planned(settings.load_settings())
        assert len({run.name for run in runs}) == len(runs) == 3 * 3 * 5 * 2
        assert {(run.dataset, run.seed) for run in runs[:10]} == {("brain_mri_cheng", 0)}
        assert {run.arm for run in runs[:10]} == set(settings.load_settings()["arms"])
        assert [run.seed for run in runs[::10]] == [0, 1, 2] * 3

    def test_shipped_settings_name_what_exists(self, configs):
        content = settings.load_settings()
        for arm in content["arms"].values():
            assert arm is None or (configs / "masking" / f"{arm['masking']}.yaml").is_file()
        assert (configs / "encoders" / f"{content['common']['backbone']}.yaml").is_file()
        known = {
            config: ConfigParser.load_config_file(str(configs / f"{config}.yaml"))
            for config in ("pretrain", "classify")
        }
        for run in settings.planned(content):
            check_keys(settings.pretraining_options(content, run) or {}, known["pretrain"])
            check_keys(settings.evaluation_options(content, run), known["classify"])

    def test_prompts_are_in_the_vocabulary(self):
        localizer = load_component("bundle/configs/localizers", "concept")
        prompts = [each["prompt"] for each in settings.load_settings()["sets"].values()]
        assert localizer.localize(torch.rand(1, 64, 64), prompts).shape == (3, 64, 64)

    def test_regions_are_asked_for_where_they_are_used(self):
        content = settings.load_settings()
        assert [arm for arm in content["arms"] if settings.needs_region(content, arm)] == [
            "region 0.7/0.3",
            "matched random",
        ]


def check_keys(options: dict, config: dict) -> None:
    """Options replace what a config has; new are only the passes and what is added to an existing component."""
    for key in set(options) - {"passes"}:
        *path, last = key.split("#")
        place = config
        for part in path:
            place = place[part]
        assert last in place or path == ["train", "dataloader"], key


def test_check_tells_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(check.NEEDED, "no_such_package", "no-such-package")
    assert check.main() == 1
    assert "no-such-package  missing, NEEDED: install it" in capsys.readouterr().out
