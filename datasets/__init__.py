# SPDX-License-Identifier: Apache-2.0
"""Scans to learn from: lists of scans from many kinds of folders, reading, caching, generated phantoms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.datalist import Datalist, load_datalist
    from datasets.errors import ScanError
    from datasets.identity import scans_identity
    from datasets.loading import LoadScand
    from datasets.scan_dataset import ScanDataset

__all__ = ["Datalist", "LoadScand", "ScanDataset", "ScanError", "load_datalist", "scans_identity"]

_HOMES = {
    "Datalist": "datasets.datalist",
    "LoadScand": "datasets.loading",
    "ScanDataset": "datasets.scan_dataset",
    "ScanError": "datasets.errors",
    "load_datalist": "datasets.datalist",
    "scans_identity": "datasets.identity",
}


# The name is also that of a PyPI package. transformers and timm import that where they find one, ours if it comes first
# on the path, and use it in their own trainers and readers of hosted sets alone; models are built and run without it
# (tests/datasets/test_package_name.py). Names are looked up on demand, since MONAI imports transformers: an import of
# MONAI here would lead back into transformers, half imported.
def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'datasets' ({__file__}, not the PyPI package of that name) has no attribute {name!r}")
