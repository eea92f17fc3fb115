# SPDX-License-Identifier: Apache-2.0
"""A place that looks like the root of the repository, in which commands are run as a reader of the documentation would.

Workflows of MONAI run in this process (eight seconds less each), through the same parser of the command line.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import fire
import monai.bundle
import torch
import yaml
from monai.utils import set_determinism

from tests.docs.exempt import PARTS
from tests.docs.pages import REPOSITORY, Step
from tests.docs.quick import QUICK, SMALL

LINKED = ("bundle", "custom", "datasets", "benchmarks", "tests", "docs", "pyproject.toml")
BUNDLE = ["python", "-m", "monai.bundle", "run"]


class Workplace:
    """A working folder, and what was done in it.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, object] = {}
        for name in LINKED:
            (folder / name).symlink_to(REPOSITORY / name)

    def do(self, step: Step) -> None:
        """Do what a page asks for.

        Raises:
            AssertionError: if it fails, or does not fail as it should.
        """
        if step.kind == "file":
            path = self.folder / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "yaml":
            yaml.safe_load(step.text)
        elif step.kind == "python":
            with as_reader(self.folder):
                exec(compile(step.text, str(step), "exec"), self.names)
        elif step.error is None:
            self.run(step.text)
        else:
            self.run_in_vain(step.text, step.error)

    def run(self, command: str) -> None:
        """Run a command, without the parts that are exempt."""
        parts = [part for part in parts_of(command) if not is_exempt(part)]
        if any(is_workflow(part) for part in parts):
            for part in parts:
                with as_reader(self.folder, python_path(part)):
                    run_workflow(part) if is_workflow(part) else self._run_shell(shlex.join(part))
        elif parts:
            self._run_shell(command)

    def run_in_vain(self, command: str, message: str) -> None:
        """Run a command that must fail with a message; `...` in it stands for anything."""
        seen = io.StringIO()
        with contextlib.redirect_stderr(seen), as_reader(self.folder):
            try:
                words = shlex.split(command)
                run_workflow(words) if is_workflow(words) else self._run_shell(command)
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
            else:
                raise AssertionError(f"This should have failed: {command}")
        shown = " ".join(seen.getvalue().split())
        pattern = ".*".join(re.escape(part.strip()) for part in " ".join(message.split()).split("..."))
        assert re.search(pattern, shown), (
            f"{message!r} is not part of the message that the reader sees:\n{shown[-3000:]}"
        )

    def _run_shell(self, command: str) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        options = {"cwd": self.folder, "env": environment, "timeout": 300, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-c", command], **options)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def parts_of(command: str) -> list[list[str]]:
    """Return the words of the commands that `&&` and `;` join, `$V/bin/` taken away."""
    reader = shlex.shlex(command, posix=True, punctuation_chars="&;|")
    reader.whitespace_split, reader.commenters = True, ""
    parts: list[list[str]] = [[]]
    for word in reader:
        if set(word) <= set("&;|"):
            parts.append([])
        else:
            parts[-1].append(word.removeprefix("$V/bin/"))
    return [part for part in parts if part]


def python_path(words: list[str]) -> list[str]:
    """Return the folders that `PYTHONPATH=...` before a command names."""
    given = [word.partition("=")[2] for word in words if word.startswith("PYTHONPATH=")]
    return given[0].split(os.pathsep) if given else []


def is_workflow(words: list[str]) -> bool:
    return [word for word in words if not word.startswith("PYTHONPATH=")][:4] == BUNDLE


def is_exempt(words: list[str]) -> bool:
    return any(" ".join(words).startswith(beginning) for beginning in PARTS)


def options_of(words: list[str]) -> dict[str, str]:
    """Return the options of a command, `--name value`."""
    return {word[2:]: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("--")}


def run_workflow(words: list[str]) -> None:
    """Run `python -m monai.bundle run ...` as the command line would, quickly."""
    fire.Fire({"run": monai.bundle.run}, command=quickened(words[words.index("run") :]), name="monai.bundle")


def config_files(words: list[str]) -> list[str]:
    """Return the configs that a workflow is run by."""
    return re.findall(r"[\w./-]+\.yaml", options_of(words).get("config_file", ""))


def quickened(words: list[str]) -> list[str]:
    """Return the words of a workflow's command with what makes it quick."""
    config, given = Path(config_files(words)[0]).stem, options_of(words)
    known = given.keys() | ({"image_size", "backbone"} if {"encoder", "patch_size"} & given.keys() else set())
    small = {name: value for name, value in SMALL.get(config, {}).items() if name not in known}
    # Of an option that is given twice, the last one counts.
    return [
        *words,
        *(word for name, value in {**small, **QUICK.get(config, {})}.items() for word in (f"--{name}", value)),
    ]


@contextlib.contextmanager
def as_reader(folder: Path, python_path: Sequence[str] = ()) -> Iterator[None]:
    """In that folder, in which Python finds modules as in those of its path; leave the process as it was."""
    before, hook, root = Path.cwd(), sys.excepthook, logging.getLogger()
    handlers, level, path, modules = root.handlers[:], root.level, sys.path[:], set(sys.modules)
    os.chdir(folder)
    sys.path += [str(folder), *(str(folder / each) for each in python_path)]
    importlib.invalidate_caches()  # files may have been written a moment ago
    try:
        yield
    finally:
        os.chdir(before)
        sys.excepthook, sys.path[:] = hook, path
        root.handlers[:], root.level = handlers, level
        for name in set(sys.modules) - modules:
            if any(place.startswith(str(folder)) for place in _places(sys.modules[name])):
                del sys.modules[name]
        set_determinism(None)
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())


def _places(module: ModuleType) -> list[str]:
    """Where a module lies: a folder without __init__.py has no file."""
    return [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
