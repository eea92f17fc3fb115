# SPDX-License-Identifier: Apache-2.0
"""Scans to learn from: lists of scans from many kinds of folders, reading, caching, generated phantoms."""

from datasets.datalist import Datalist, load_datalist
from datasets.errors import ScanError
from datasets.loading import LoadScand
from datasets.scan_dataset import ScanDataset

__all__ = ["Datalist", "LoadScand", "ScanDataset", "ScanError", "load_datalist"]
