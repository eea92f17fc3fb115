# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

# Before torch is imported: the tests run in as many processes as there are cores, and their tensors are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
os.chdir(REPOSITORY)  # the configs' relative paths start there, wherever pytest was called


SEED = 81_549_300  # none that a test sets itself


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whatever a test, or a fixture made for it, draws without a seed is the same alone and in any order."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository: the configs' relative paths start here."""
    return REPOSITORY


@pytest.fixture(scope="session")
def configs(repository: Path) -> Path:
    return repository / "bundle" / "configs"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real scans; a test that asks for it is skipped, visibly, where there is none."""
    root = os.environ.get("MWM_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("real scans: set MWM_DATA to the folder that holds them")
    return Path(root)


@pytest.fixture(scope="session")
def raises_cause() -> Callable[[str], AbstractContextManager[None]]:
    """Like `pytest.raises(match=...)` for the error that started a chain: MONAI wraps what its components raise."""

    @contextmanager
    def check(match: str) -> Iterator[None]:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what counts
            yield
        error = caught.value
        while error.__cause__ is not None and not re.search(match, str(error)):
            error = error.__cause__
        assert re.search(match, str(error)), f"{error!r} does not match {match!r}"

    return check


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
