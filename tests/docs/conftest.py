# SPDX-License-Identifier: Apache-2.0
"""A working folder for each page of the documentation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.phantoms import ensure_phantoms
from tests.docs.pages import Step, blocks_of, read_page, steps_of
from tests.docs.running import Workplace


class Reader:
    """Somebody who works through a page, step by step, and stops at the first that fails."""

    def __init__(self, page: str, folder: Path) -> None:
        self.steps = steps_of(blocks_of(page, read_page(page)))
        self.workplace, self.done = Workplace(folder), 0
        self.stuck: Step | None = None

    def reach(self, number: int) -> None:
        """Do all steps up to a number that are not done yet."""
        if self.stuck is not None:
            pytest.fail(f"An earlier step failed: {self.stuck}", pytrace=False)
        while self.done <= number:
            self.stuck = self.steps[self.done]
            self.workplace.do(self.stuck)
            self.stuck = None
            self.done += 1


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `D`, the scans of a reader, and a few of another part of the body for the gate."""
    folder = tmp_path_factory.mktemp("data")
    made = ensure_phantoms("brain_mri", 2, folder, size=64, counts={"train": 16, "val": 4, "test": 4})
    made.rename(folder / "D")
    for dims in (2, 3):
        ensure_phantoms("chest_ct", dims, folder / ".elsewhere", size=32, counts={"test": 2})
    return folder


@pytest.fixture(scope="module")
def reader_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reader]:
    """The reader of a page; a page has one in a module of tests."""
    readers: dict[str, Reader] = {}

    def find(page: str) -> Reader:
        if page not in readers:
            folder = tmp_path_factory.mktemp(Path(page).stem)
            shutil.copytree(data, folder, dirs_exist_ok=True)
            readers[page] = Reader(page, folder)
        return readers[page]

    return find
