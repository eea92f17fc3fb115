# SPDX-License-Identifier: Apache-2.0
"""localize.yaml as a user runs it: maps, report, resuming, bad scans."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from custom.workflows.localize import pretrain_command
from custom.workflows.prompts import named_prompts


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "tests" / "regions"))


@pytest.fixture
def localizer(tmp_path) -> Path:
    """A component file of the stand-in, which writes a line to ``calls.txt`` for each of its calls."""
    file = tmp_path / "standin.yaml"
    file.write_text(f"_target_: standin.HalfLocalizer\nlog: {tmp_path / 'calls.txt'}\n")
    return file


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(random.integers(0, 255, (40, 32), dtype=np.uint8)).save(folder / f"scan_{index}.png")
    return folder


@pytest.fixture
def volumes(tmp_path) -> Path:
    folder = tmp_path / "volumes"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        values = random.normal(100, 10, (16, 14, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), folder / f"volume_{index}.nii.gz")
    return folder


def run(dataset: Path, output: Path, component: Path, **overrides) -> None:
    workflow = ConfigWorkflow(
        "bundle/configs/localize.yaml",
        logging_file=False,
        workflow_type="infer",
        **{
            "dataset_dir": str(dataset),
            "output_dir": str(output),
            "localizer": str(component),
            "prompt": "x",
            "gate_scans": 0,
        }
        | overrides,
    )
    workflow.initialize()
    workflow.run()


@contextlib.contextmanager
def failing(message: str) -> Iterator[None]:
    """Expect an error that says this, or is caused by one that does: MONAI wraps what a component raises."""
    with pytest.raises((ValueError, RuntimeError)) as raised:
        yield
    chain: list[BaseException | None] = [raised.value]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__)
    said = [str(error) for error in chain[:-1]]
    assert any(re.search(message, each) for each in said), said


def calls(tmp_path: Path) -> int:
    file = tmp_path / "calls.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_maps_records_sheet_and_summary(pictures, localizer, tmp_path):
    output = tmp_path / "out"
    run(pictures, output, localizer, prompt=["x", "nothing"])
    assert len(list((output / "maps").glob("*/*.png"))) == len(list((output / "maps").glob("*/*.json"))) == 10
    with Image.open(output / "maps" / "scan_3.png" / "x.png") as region:
        assert region.size == (32, 40)
        assert (region.getpixel((0, 39)), region.getpixel((31, 39))) == (178, 0)
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["scans"], summary["skipped"]) == (5, [])
    assert summary["prompts"]["x"]["mean_coverage"] == 0.5
    assert summary["prompts"]["nothing"]["empty"] == 5
    with open(output / "summary.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 10
    with Image.open(output / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 300
    assert "Content-Security-Policy" in (output / "report.html").read_text()


def test_volumes(volumes, localizer, tmp_path):
    run(volumes, tmp_path / "out", localizer)
    region = nibabel.load(tmp_path / "out" / "maps" / "volume_1.nii.gz" / "x.nii.gz")
    assert region.shape == (16, 14, 12)
    np.testing.assert_allclose(region.affine, np.diag([1, 1, 2, 1]))
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_a_second_run_makes_nothing(pictures, localizer, tmp_path):
    run(pictures, tmp_path / "out", localizer)
    first = (tmp_path / "out" / "summary.json").read_text()
    run(pictures, tmp_path / "out", localizer)
    assert calls(tmp_path) == 5
    assert (tmp_path / "out" / "summary.json").read_text() == first
    run(pictures, tmp_path / "out", localizer, prompt=["x", "y"])
    assert calls(tmp_path) == 10


def test_a_stopped_run_goes_on_where_it_was(pictures, localizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "out", localizer, localizer_options={"stop_after": 2})
    assert calls(tmp_path) == 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["stopped"] == "KeyboardInterrupt"
    run(pictures, tmp_path / "out", localizer)
    assert calls(tmp_path) == 5


def test_limit_and_split(pictures, localizer, tmp_path):
    run(pictures, tmp_path / "out", localizer, limit=2)
    assert calls(tmp_path) == 2
    with failing("train"):
        run(pictures, tmp_path / "out", localizer, split="trian")


def test_a_bad_scan_is_named_or_skipped(pictures, localizer, tmp_path):
    bad = pictures / "scan_2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with failing(r"scan_2\.png"):
        run(pictures, tmp_path / "out", localizer)
    run(pictures, tmp_path / "out", localizer, skip_bad="true")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scans"] == 4
    assert [each["scan_id"] for each in summary["skipped"]] == ["scan_2.png"]
    assert "scan_2.png" in summary["skipped"][0]["message"]
    assert calls(tmp_path) == 4


def test_settings_that_cannot_work_say_why(pictures, localizer, tmp_path):
    for overrides, message in [
        ({"prompt": None}, "--prompt"),
        ({"localizer": "concpet"}, "No component 'concpet'"),
        ({"dataset_dir": str(tmp_path / "nowhere")}, "nowhere"),
    ]:
        with failing(message):
            run(pictures, tmp_path / "out", localizer, **overrides)


def test_an_unwritable_output_folder_is_said_before_any_work(pictures, localizer, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with failing(r"cannot write there.*--output_dir"):
        run(pictures, tmp_path / "file" / "out", localizer)
    assert calls(tmp_path) == 0


def test_as_a_command_with_commas_in_the_phrase(pictures, localizer, tmp_path, repository):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundle/configs/localize.yaml"]
    command += ["--dataset_dir", str(pictures), "--prompt", "tumor, edema", "--localizer", str(localizer)]
    command += ["--output_dir", str(tmp_path / "out"), "--limit", "1", "--skip_bad", "false", "--gate_scans", "0"]
    environment = {"PYTHONPATH": str(repository / "tests" / "regions"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "calls.txt").read_text() == "['tumor, edema']\n"
    log = done.stdout + done.stderr
    assert "localizing" in log
    assert f"""--prompt "['tumor, edema']" --region_dir {tmp_path / "out"}""" in log


def test_prompts_come_from_the_user_or_the_scans():
    items = [{"prompt": "b"}, {"prompt": "a"}, {}]
    assert named_prompts(None, items) == ["a", "b"]
    assert named_prompts("one, phrase", items) == ["one, phrase"]
    assert named_prompts(("one", "phrase"), items) == ["one, phrase"]
    assert named_prompts(["x", "y", "x"], items) == ["x", "y"]
    assert named_prompts(None, [{}]) == []


def test_the_next_command_can_be_pasted():
    assert pretrain_command("configs", "D", "O", ["brain tumor"]) == (
        "Next: python -m monai.bundle run --config_file configs/pretrain.yaml --dataset_dir D "
        '--prompt "brain tumor" --region_dir O'
    )
    assert "--prompt \"['a', 'b']\"" in pretrain_command("configs", "D", "O", ["a", "b"])
