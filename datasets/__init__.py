# SPDX-License-Identifier: Apache-2.0
"""Scans to learn from: lists of scans from many kinds of folders, reading, caching, generated phantoms."""

# The name is also that of a PyPI package, which transformers and timm import where they can, and of which they use
# nothing but in their own trainers and readers of hosted sets. Imported first, ours stands in for it there: models
# are built and run, those trainers are not (tests/datasets/test_package_name.py).
from datasets.datalist import Datalist, load_datalist
from datasets.errors import ScanError
from datasets.loading import LoadScand
from datasets.scan_dataset import ScanDataset

__all__ = ["Datalist", "LoadScand", "ScanDataset", "ScanError", "load_datalist"]
