# SPDX-License-Identifier: Apache-2.0
"""How a scan becomes what a network takes: one contract, which is recorded, taken over and followed, and its steps.

They are the same in pretraining, tasks, evaluation, inference and bundles.
"""

from custom.preprocessing.contract import BLOCK, Preprocessing
from custom.preprocessing.dictionary import PrepareScand, load_scand
from custom.preprocessing.fit import FitIntoBoxd
from custom.preprocessing.intensity import Intensity
from custom.preprocessing.records import (
    check_empty_cells,
    compare_with_encoder,
    encoder_contract,
    inherited,
    make_contract,
    model_contract,
)

__all__ = [
    "BLOCK",
    "FitIntoBoxd",
    "Intensity",
    "PrepareScand",
    "Preprocessing",
    "check_empty_cells",
    "compare_with_encoder",
    "encoder_contract",
    "inherited",
    "load_scand",
    "make_contract",
    "model_contract",
]
