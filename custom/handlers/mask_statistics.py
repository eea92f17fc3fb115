# SPDX-License-Identifier: Apache-2.0
"""The masking ratios that were realised, as metrics of the training engine."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from custom.keys import MIMKeys

logger = logging.getLogger(__name__)


class MaskStatistics:
    """Average the batches' ``mask_info`` over an epoch into ``engine.state.metrics``.

    ``hidden_ratio`` (of all cells), ``region_share`` (of all cells), ``region_hidden_ratio`` and
    ``background_hidden_ratio`` (of the cells of each kind, over the scans that have any), and ``fallback_share``: scans
    whose region was empty or covered everything, so that they were masked at random. Where empty cells are left out,
    none of these counts them, and ``empty_share`` is their share. Attach it before handlers that report metrics.

    All numbers come from the data loader, on the host: nothing here waits for a GPU.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Collect after each iteration, report after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _reset(self, _: Engine) -> None:
        self._sums = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._weights = defaultdict(lambda: torch.zeros((), dtype=torch.float64))

    def _collect(self, engine: Engine) -> None:
        info = {name: torch.as_tensor(value).double() for name, value in _mask_info(engine).items()}
        everyone = torch.ones_like(info["hidden_ratio"])
        share = info["region_share"]
        self._add("hidden_ratio", info["hidden_ratio"], everyone)
        self._add("region_share", share, everyone)
        self._add("region_hidden_ratio", info["region_hidden_ratio"], (share > 0).double())
        self._add("background_hidden_ratio", info["background_hidden_ratio"], (share < 1).double())
        self._add("fallback_share", info["fallback"], everyone)
        if "empty_share" in info:
            self._add("empty_share", info["empty_share"], everyone)

    def _add(self, name: str, values: Tensor, weights: Tensor) -> None:
        self._sums[name] += (values * weights).sum()
        self._weights[name] += weights.sum()

    def _report(self, engine: Engine) -> None:
        means = {name: (total / self._weights[name].clamp(min=1)).item() for name, total in self._sums.items()}
        engine.state.metrics.update(means)
        if engine.state.epoch == 1 and means.get("fallback_share"):
            logger.warning(
                "%.1f %% of the scans have an empty or an all-covering region and are masked at random instead.",
                100 * means["fallback_share"],
            )


def _mask_info(engine: Engine) -> dict[str, Any]:
    batch: Any = engine.state.batch
    return batch[MIMKeys.MASK_INFO]
