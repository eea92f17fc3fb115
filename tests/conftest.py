# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


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


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
