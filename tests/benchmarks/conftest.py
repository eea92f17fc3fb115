# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by the tests of the GPU study."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from benchmarks.gpu import settings


@pytest.fixture(scope="module")
def tiny() -> dict:
    """The shipped settings at a size for two processor cores."""
    small = copy.deepcopy(settings.load_settings())
    small |= {"side": 32, "seeds": [0], "sets": {"tiny": {"prompt": "brain tumor"}}}
    small["arms"] = {arm: small["arms"][arm] for arm in ("from scratch", "region 0.7/0.3", "random 0.6 (SparK)")}
    small["common"] |= {"backbone": "resnet18_narrow", "image_size": [32, 32]}
    # Processors compute slowly in bfloat16; TestPrecision does.
    small["common"] |= {f"{part}#inferer": {"_target_": "SimpleInferer"} for part in ("train", "validate")}
    small["pretrain"] |= {"passes": 2, "max_epochs": 2, "batch_size": 4, "cell_size": 8, "checkpoint_interval": 1}
    small["evaluations"]["fine-tuning"] |= {"passes": 1, "max_epochs": 2, "batch_size": 4}
    small["machine"] |= {"num_workers": 0}
    return small


@pytest.fixture(scope="module")
def a_result() -> Callable[..., dict]:
    """Make the result of a run, as a machine writes it."""

    def make(run: settings.Run, accuracy: float = 0.5, batch_size: int = 4, finished: str = "2026-01-01") -> dict:
        figures = {"accuracy": accuracy, "balanced_accuracy": 0.5, "macro_auroc": 0.75}
        return {
            "name": run.name,
            **{"dataset": run.dataset, "seed": run.seed, "arm": run.arm, "evaluation": run.evaluation},
            "settings": {"data": "abc", "pretrain": {"batch_size": batch_size}, "evaluate": {}},
            "pretraining": {"seconds": 9.0, "images_per_second": 5.0, "history": [{"hidden_ratio": "0.6"}]},
            "seconds": 3.0,
            "test": {**figures, "intervals": {"macro_auroc": [0.7, 0.8]}},
            "val": figures,
            "versions": {"torch": "2", "code": "c0de"},
            "device": "a GPU",
            "finished": finished,
        }

    return make
