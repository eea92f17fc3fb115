# SPDX-License-Identifier: Apache-2.0
"""What is learned from: readers of scan folders, generated phantoms, public sets."""

from datasets.datalist import Datalist, load_datalist
from datasets.errors import ScanError
from datasets.loading import LoadScand
from datasets.scan_dataset import ScanDataset

__all__ = ["Datalist", "LoadScand", "ScanDataset", "ScanError", "load_datalist"]
