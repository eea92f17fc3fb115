# SPDX-License-Identifier: Apache-2.0
"""Workers that misbehave; they need numpy alone, so that their processes start quickly."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import stat
import sys

import pytest
import torch
from monai.data import MetaTensor

from custom.localizers.external import ExternalLocalizer, WorkerError

WORKER = """
import os, subprocess, sys, time
import numpy as np

print("noise while importing")
os.write(1, b"noise of a C library\\n")


def load(options):
    if options.get("fail"):
        raise RuntimeError(options["fail"])
    if options.get("slow"):
        time.sleep(600)

    def localize(volume, affine, prompts):
        return np.stack([one(volume, affine, prompt) for prompt in prompts])

    def one(volume, affine, prompt):
        print("noise", flush=True)
        os.write(1, b'{"done": true}\\n')
        subprocess.run(["echo", "noise of a child"])
        assert sys.stdin.read() == ""
        if prompt == "pid":
            return np.full(volume.shape, os.getpid() % 1000 / 1000)
        if prompt == "spacing":
            return np.full(volume.shape, affine[0, 0])
        if prompt == "first":
            return volume == volume.flat[0]
        if prompt == "flat":
            return volume[0]
        if prompt == "raise":
            raise ValueError("no such organ")
        if prompt == "die":
            sys.stderr.write("".join(f"line {n}\\r" for n in range(50)) + "these are my last words\\n")
            sys.stderr.flush()
            os._exit(7)
        if prompt == "abort":
            os.abort()
        if prompt == "sleep":
            time.sleep(600)
        return np.full(volume.shape, options.get("value", 0.25))

    return localize
"""


@pytest.fixture
def make(tmp_path):
    """Localizers with this worker, closed at the end."""
    made = []
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)

    def make(**parameters):
        made.append(ExternalLocalizer(worker, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def scan(generator):
    return torch.rand(1, 3, 4, 5, generator=generator)


def number(localizer, scan):
    """Tells worker processes apart."""
    return localizer._worker.pid if localizer.localize(scan, ["pid"]).max() > 0 else None


def test_noise_does_not_disturb(make, scan):
    localizer = make(options={"value": 0.75})
    found = localizer.localize(scan, ["a", "first", "b"])
    assert found.shape == (3, 3, 4, 5)
    assert found[0].unique().tolist() == found[2].unique().tolist() == [0.75]
    assert found[1].nonzero().tolist() == [[0, 0, 0]]


def test_the_affine_arrives(make, scan):
    assert make().localize(scan, ["spacing"]).max() == 1
    image = MetaTensor(scan, affine=torch.diag(torch.tensor([0.5, 2, 2, 1])))
    assert make().localize(image, ["spacing"]).max() == 0.5


def test_one_process_serves_all_scans_and_close_ends_it(make, scan):
    localizer = make()
    first = number(localizer, scan)
    assert number(localizer, scan) == first
    localizer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert number(localizer, scan) != first


def test_a_process_ends_with_its_localizer(make, tmp_path, scan):
    localizer = ExternalLocalizer(tmp_path / "worker.py")
    process = number(localizer, scan)
    del localizer
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_errors_of_the_worker_are_told_and_it_lives_on(make, scan):
    localizer = make()
    process = number(localizer, scan)
    with pytest.raises(WorkerError, match=r"no such organ(.|\n)*worker.py"):
        localizer.localize(scan, ["raise"])
    with pytest.raises(WorkerError, match=r"returned maps of \(1, 4, 5\)"):
        localizer.localize(scan, ["flat"])
    assert number(localizer, scan) == process


@pytest.mark.parametrize(("prompt", "how"), [("die", "exit status 7"), ("abort", "SIGABRT")])
def test_its_death_is_told_and_the_next_scan_starts_another(make, scan, prompt, how):
    localizer = make()
    process = number(localizer, scan)
    with pytest.raises(WorkerError, match=how) as caught:
        localizer.localize(scan, [prompt])
    if prompt == "die":
        assert str(caught.value).endswith("  line 48\n  line 49\n  these are my last words")
        assert "line 1\n" not in str(caught.value)
    assert number(localizer, scan) != process


def test_death_between_scans(make, scan):
    localizer = make()
    process = number(localizer, scan)
    os.kill(process, 9)
    localizer._worker._process.wait()
    assert number(localizer, scan) != process


def test_running_out_of_memory_is_guessed(make, scan):
    localizer = make()
    worker = localizer._running()
    os.kill(worker.pid, 9)
    with pytest.raises(WorkerError, match="memory"):
        worker.ask({}, 10)


def test_time_limit(make, scan):
    localizer = make()
    process = number(localizer, scan)
    localizer.scan_minutes = 0.005
    with pytest.raises(WorkerError, match=r"within 0.005 minutes"):
        localizer.localize(scan, ["sleep"])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    localizer.scan_minutes = 1
    assert number(localizer, scan) != process


def test_loading_has_its_own_limit(make, scan):
    with pytest.raises(WorkerError, match=r"within 0.01 minutes(.|\n)*option `python`"):
        make(options={"slow": True}, start_minutes=0.01).localize(scan, ["a"])


def test_what_fails_while_loading_is_told(make, scan):
    localizer = make(options={"fail": "no weights here"})
    with pytest.raises(WorkerError, match=r"no weights here(.|\n)*option `python`"):
        localizer.localize(scan, ["a"])
    assert localizer._worker is None


def test_a_missing_python(make, scan):
    with pytest.raises(WorkerError, match=r"no program /no/such/python(.|\n)*option `python`"):
        make(python="/no/such/python").localize(scan, ["a"])


@pytest.mark.parametrize(
    "content", ["not a program", "#!/bin/sh\necho broken >&2\nexit 4\n", "#!/no/such/interpreter\n"]
)
def test_a_broken_python(make, scan, tmp_path, content):
    broken = tmp_path / "python"
    broken.write_text(content)
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(WorkerError, match=r"(cannot be run|exit status 4(.|\n)*broken)(.|\n)*option `python`"):
        make(python=broken).localize(scan, ["a"])


def test_this_environment_does_not_leak_into_the_other(make, scan, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/no/such/place")
    assert number(make(python=sys.executable), scan)


def test_a_missing_worker_file(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        ExternalLocalizer(tmp_path / "none.py")


def test_copies_have_their_own_process(make, scan):
    localizer = make()
    process = number(localizer, scan)
    for other in (copy.deepcopy(localizer), pickle.loads(pickle.dumps(localizer))):
        assert number(other, scan) != process
        other.close()
    assert number(localizer, scan) == process


def test_forked_processes_leave_the_worker_alone(make, scan):
    localizer = make()
    process = number(localizer, scan)
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    child = context.Process(target=lambda: result.put(number(localizer, scan)))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert result.get() != process
    assert number(localizer, scan) == process


def test_pictures(make):
    image = torch.rand(1, 6, 4)
    assert make(native_dims=(2, 3)).localize(image, ["first"]).nonzero().tolist() == [[0, 0, 0]]


def test_the_record_changes_with_worker_and_options(make):
    localizer = make(options={"value": 1})
    described = localizer.describe()
    assert make(options={"value": 2}).describe() != described
    localizer.worker_file.write_text(WORKER + "\n")
    assert localizer.describe() != described


def test_a_worker_needs_numpy_alone(repository):
    """Neither side of the wall may reach over it."""
    folder = repository / "custom" / "localizers" / "external"
    for name in ("serve.py", "voxtell_worker.py"):
        assert "import custom" not in (folder / name).read_text()
        assert "from custom" not in (folder / name).read_text()
