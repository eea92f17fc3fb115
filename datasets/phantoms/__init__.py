# SPDX-License-Identifier: Apache-2.0
"""Generated scans that need no download: brain MRI, chest CT and chest X-ray with known regions."""

from datasets.phantoms.baseline import histogram_baseline
from datasets.phantoms.sample import KINDS, SPECS, Phantom, make_phantom
from datasets.phantoms.writer import ensure_phantoms

__all__ = ["KINDS", "SPECS", "Phantom", "ensure_phantoms", "histogram_baseline", "make_phantom"]
