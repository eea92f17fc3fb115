# SPDX-License-Identifier: Apache-2.0
"""The GPU study, as small as it gets and on the CPU: packed, killed, gone on with, merged."""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.bundle import make_workflow
from benchmarks.gpu import merge, pack, settings, study
from benchmarks.gpu.archive import unpack
from benchmarks.gpu.bfloat16 import Bfloat16Inferer
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.results import read_results
from custom.handlers import read_history
from custom.regions import RegionStore
from datasets import load_datalist

PROMPT = "brain tumor"


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A set of 16 pictures of two classes: grey discs with a spot that is bright or dark."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    (folder / "images").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    y, x = np.mgrid[:80, :80]
    for index in range(16):
        picture = 110.0 * ((x - 40) ** 2 + (y - 40) ** 2 < 35**2)
        at = random.integers(25, 55, 2)
        picture[(x - at[0]) ** 2 + (y - at[1]) ** 2 < 64] = 230 if index % 2 else 20
        noisy = np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "images" / f"scan_{index:02}.jpg", quality=95)
        split = "train" if index < 8 else "val" if index < 12 else "test"
        rows.append([f"images/scan_{index:02}.jpg", "bright" if index % 2 else "dark", split, f"p{index}", "unused"])
    with open(folder / "manifest.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["file", "label", "split", "group", "note"], *rows])
    return folder.parent


@pytest.fixture(scope="module")
def packed(data, tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    assert pack_set(data, tiny, folder) == 0
    return folder


def pack_set(data: Path, content: dict, folder: Path, *more: str) -> int:
    options = ["--data", data, "--output", folder, "--work", folder / "work", "--settings", written(content, folder)]
    return pack.main([*map(str, options), *more])


def written(content: dict, folder: Path) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def results_of(folder: Path) -> dict[str, dict]:
    return {result["name"]: result for result in read_results([folder / "results.jsonl"])}


class TestPack:
    def test_unpacked_set_has_the_same_scans_labels_and_groups(self, data, packed, tmp_path):
        before, after = load_datalist(data / "tiny"), load_datalist(unpack(packed / "tiny.zip", tmp_path / "tiny"))
        facts = ("label", "split", "group")
        assert [[item[key] for key in facts] for item in before.items] == [
            [item[key] for key in facts] for item in after.items
        ]
        assert before.classes == after.classes

    def test_pictures_are_as_large_as_the_study_wants_and_nearly_unchanged(self, data, packed, tmp_path):
        folder = unpack(packed / "tiny.zip", tmp_path / "tiny")
        original = Image.open(data / "tiny" / "images" / "scan_03.jpg").resize((32, 32), Image.Resampling.LANCZOS)
        picture = Image.open(folder / "images" / "scan_03.png")
        assert picture.size == (32, 32)
        assert np.abs(np.asarray(picture, float) - np.asarray(original, float)).mean() < 5

    def test_maps_are_those_of_the_unpacked_pictures_cut_at_the_threshold(self, packed, tmp_path):
        folder = unpack(packed / "tiny.zip", tmp_path / "tiny")
        made = RegionStore(packed / "work" / "tiny" / "regions").load("images/scan_03.png", PROMPT)
        travelled = RegionStore(folder / "regions", read_only=True).load("images/scan_03.png", PROMPT)
        assert torch.equal(travelled, (made >= 0.5).float())
        assert 0 < travelled.mean() < 1

    def test_test_scans_have_no_map(self, packed):
        names = ZipFile(packed / "tiny.zip").namelist()
        assert "maps/scan_11.png" in names
        assert "maps/scan_12.png" not in names

    def test_bytes_are_the_same_each_time(self, data, tiny, packed, tmp_path):
        assert pack_set(data, tiny, tmp_path) == 0
        assert (tmp_path / "tiny.zip").read_bytes() == (packed / "tiny.zip").read_bytes()

    def test_too_much_is_refused_with_what_to_leave_out(self, data, tiny, packed, capsys):
        assert pack_set(data, tiny, packed, "--limit-mib", "0.01") == 1
        assert "Leave a set for another call (without tiny" in capsys.readouterr().out

    def test_pictures_of_one_name_are_refused(self, tmp_path):
        (tmp_path / "manifest.csv").write_text("file,label,split\na/1.png,x,train\nb/1.png,x,test\n")
        with pytest.raises(ValueError, match="called '1'"):
            pack.read_rows(tmp_path)


class TestStudy:
    def test_a_study_that_was_killed_gives_every_result_once(self, tiny, packed, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        options = ["--packed", packed, "--output", tmp_path / "out", "--work", tmp_path / "work"]
        two = {**tiny, "arms": {arm: tiny["arms"][arm] for arm in ("from scratch", "region 0.7/0.3")}}
        options = [*map(str, options), "--settings", str(written(two, tmp_path))]
        kill_in_pretraining(options)
        before = results_of(tmp_path / "out")
        assert {result["arm"] for result in before.values()} == {"from scratch"}
        assert study.main(options) == 0
        assert "Resuming after epoch 1 of 2" in caplog.text
        results = results_of(tmp_path / "out")
        assert set(results) == {run.name for run in settings.planned(two)}
        assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == len(results) == 4
        assert len(list((tmp_path / "work" / "results").glob("*.json"))) == 4
        assert before.items() < results.items()
        assert not list((tmp_path / "work").rglob("checkpoint_epoch=*"))
        check_results(results)
        assert merge.main([str(tmp_path / "out"), *options[-2:], "--output", str(tmp_path / "tables")]) == 0
        assert "4 of 4 planned runs; still missing: none" in (tmp_path / "tables" / "gpu_study.md").read_text()

    def test_time_that_is_up_leaves_a_checkpoint_and_nothing_half_done(self, tiny, packed, tmp_path, monkeypatch):
        monkeypatch.setattr(study, "START_SECONDS", 0)
        long = copy.deepcopy(tiny)
        long["arms"] = {"random 0.6 (SparK)": {"masking": "spark"}}
        long["pretrain"] |= {"max_epochs": 100_000, "checkpoint_interval": 100_000}
        made = study.Study(long, packed, tmp_path / "work", tmp_path / "out", minutes=0.1)
        made.go()
        folder = tmp_path / "work" / "pretraining" / "tiny-seed_0-random_0_6__SparK"
        epoch = int(read_history(folder / "history.csv")[-1]["epoch"])
        assert (folder / "checkpoints" / f"checkpoint_epoch={epoch}.pt").is_file()
        assert not (folder / "encoder.safetensors").exists()
        assert (made.failed, made.results) == ([], {})
        assert "0 of 2 runs are finished" in made.summary()

    def test_nothing_is_begun_that_cannot_end(self, tiny, packed, tmp_path, monkeypatch):
        monkeypatch.setattr(study.Study, "_workflow", lambda *_: pytest.fail("began"))
        study.Study(tiny, packed, tmp_path / "work", tmp_path / "out", minutes=0.1).go()

    def test_results_of_earlier_calls_are_not_made_again(self, tiny, packed, tmp_path, monkeypatch, a_result):
        monkeypatch.setattr(study.Study, "do", lambda *_: pytest.fail("did it again"))
        earlier = tmp_path / "earlier.jsonl"
        earlier.write_text("".join(json.dumps(a_result(run)) + "\n" for run in settings.planned(tiny)))
        made = study.Study(tiny, packed, tmp_path / "work", tmp_path / "out", 1, [earlier])
        made.go()
        assert len(results_of(tmp_path / "out")) == 6

    def test_a_failing_run_is_named_and_does_not_stop_the_others(self, tiny, packed, tmp_path, monkeypatch):
        def fail(self, run):
            raise ValueError("no")

        monkeypatch.setattr(study.Study, "do", fail)
        made = study.Study(tiny, packed, tmp_path / "work", tmp_path / "out", minutes=1)
        made.go()
        assert len(made.failed) == 6
        assert "Failed" in made.summary()

    def test_work_begun_with_other_settings_is_refused(self, tmp_path):
        study.claim(tmp_path, {"batch_size": 4})
        study.claim(tmp_path, {"batch_size": 4})
        with pytest.raises(ValueError, match="other settings"):
            study.claim(tmp_path, {"batch_size": 8})

    def test_without_archives_there_is_nothing_to_study(self, tiny, tmp_path):
        with pytest.raises(ValueError, match=r"benchmarks\.gpu\.pack"):
            study.Study(tiny, tmp_path, tmp_path / "work", tmp_path / "out", minutes=1)


KILLED = """
import os, signal, sys
from benchmarks.gpu import study
from custom.handlers import TrainingCheckpoint

write = TrainingCheckpoint._write

def write_and_die(self, path, content):
    write(self, path, content)
    if "pretraining" in path.parts:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingCheckpoint._write = write_and_die
study.main(sys.argv[1:])
"""


def kill_in_pretraining(options: list[str]) -> None:
    """Run the study in a process of its own, which is killed at the first checkpoint of a pretraining."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def check_results(results: dict[str, dict]) -> None:
    """What every result must tell."""
    for result in results.values():
        assert {"accuracy", "macro_auroc", "intervals"} <= result["test"].keys() & result["val"].keys()
        assert {"torch", "monai", "python", "code"} <= result["versions"].keys()
        assert result["device"].startswith("CPU") or torch.cuda.is_available()
        assert (result["pretraining"] is None) == (result["arm"] == "from scratch")
        assert (result["training"] is None) == (result["evaluation"] == "linear probe")
        assert result["seconds"] > 0
        if result["pretraining"] is not None:
            assert result["settings"]["pretrain"]["masking"] == "region"
            assert result["pretraining"]["epochs"] == len(result["pretraining"]["history"]) == 2
            assert result["pretraining"]["images_per_second"] > 0
        if result["training"] is not None:
            assert result["training"]["epochs"] == 2


class Products(TorchDispatchMode):
    """Notes the types in which convolutions and matrix products are computed."""

    NAMES = ("convolution", "mm", "addmm", "bmm")

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in self.NAMES:
            self.types.add(result.dtype)
        return result


class TestClock:
    def test_an_epoch_whose_time_was_lost_counts_as_the_mean_of_the_others(self, tmp_path):
        timed = {"seconds": 4.0, "training": 2.0, "images": 10}
        (tmp_path / "epochs.json").write_text(json.dumps({"1": timed, "3": {**timed, "seconds": 6.0}}))
        facts = Clock(tmp_path / "epochs.json", deadline=0).facts()
        assert facts == {"epochs": 3, "seconds": 15.0, "images_per_second": 5.0}


class TestPrecision:
    @pytest.mark.parametrize("execution", ["masked_dense", "packed"])
    def test_pretraining_computes_in_bfloat16_and_keeps_float32(self, tiny, packed, tmp_path, execution):
        folder = unpack(packed / "tiny.zip", tmp_path / "tiny")
        run = next(run for run in settings.planned(tiny) if run.arm == "region 0.7/0.3")
        made = {"dataset_dir": str(folder), "region_dir": str(folder / "regions"), "execution": execution}
        options = {**settings.pretraining_options(tiny, run), **made, "passes": 1}
        check_precision("pretrain", {**options, **tiny["machine"], "output_dir": str(tmp_path / "out")})

    def test_fine_tuning_likewise(self, tiny, packed, tmp_path):
        folder = unpack(packed / "tiny.zip", tmp_path / "tiny")
        run = next(run for run in settings.planned(tiny) if run.evaluation == "fine-tuning")
        options = {**settings.evaluation_options(tiny, run), "dataset_dir": str(folder), "encoder": None}
        check_precision("classify", {**options, **tiny["machine"], "output_dir": str(tmp_path / "out")})

    def test_inferer_passes_all_arguments(self):
        given = []
        found = Bfloat16Inferer()(
            torch.ones(1, 2), lambda *args, **kwargs: given.append((args, kwargs)) or args[0], 3, a=4
        )
        assert found.dtype == torch.float32
        assert given[0][0][1:] == (3,)
        assert given[0][1] == {"a": 4}


def check_precision(config: str, options: dict) -> None:
    """Train; products must be bfloat16, parameters, their gradients and what the loss sees float32."""
    precise = {key: value for key, value in settings.load_settings()["common"].items() if key.endswith("#inferer")}
    workflow = make_workflow(config, **{**options, **precise, "max_epochs": 1, "val_interval": 1})
    trainer = workflow.parser.get_parsed_content("train#trainer")
    products, inferer, predicted = Products(), trainer.inferer, set()

    def watched(*args, **kwargs):
        with products:
            return inferer(*args, **kwargs)

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine):
        predicted.add(engine.state.output["pred"].dtype)

    trainer.inferer = watched
    trainer.run()
    parameters = [parameter for parameter in trainer.network.parameters() if parameter.grad is not None]
    assert products.types == {torch.bfloat16}
    assert predicted == {torch.float32}
    assert {parameter.dtype for parameter in parameters} == {parameter.grad.dtype for parameter in parameters}
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert trainer.scaler is None
