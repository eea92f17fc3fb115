# SPDX-License-Identifier: Apache-2.0
"""Uniformly random masks, as in SparK and MAE."""

from __future__ import annotations

import torch
from torch import Tensor

from custom.masking.base import (
    DEFAULT_THRESHOLD,
    MaskSample,
    as_sample,
    check_budget,
    check_ratio,
    check_threshold,
    choose_exactly,
    limited,
    read_cells,
    round_half_up,
    uniform_keys,
)


class RandomMasking:
    """Hides cells uniformly, wherever the region lies (SparK, arXiv 2301.03580, section 3.1).

    The number of visible cells is the same in every sample: ``round((1 - ratio) * cells)``, at least one and at
    most all but one, or exactly ``visible_cells``. Where only some cells are eligible, each sample's are counted.

    Args:
        ratio: share of cells to hide, in [0, 1]; give this or ``visible_cells``.
        visible_cells: exact number of visible cells.
        threshold: coverage from which a cell counts as region. It only serves the report of the realised ratios.

    Raises:
        ValueError: if both or none of ``ratio`` and ``visible_cells`` are given, or a value is out of range.
    """

    needs_region = False

    def __init__(
        self, ratio: float | None = None, visible_cells: int | None = None, threshold: float = DEFAULT_THRESHOLD
    ) -> None:
        if (ratio is None) == (visible_cells is None):
            raise ValueError(f"Give ratio or visible_cells, received ratio={ratio} and visible_cells={visible_cells}.")
        self.ratio = None if ratio is None else check_ratio("ratio", ratio)
        self.visible_cells = visible_cells
        self.threshold = check_threshold(threshold)

    def sample(
        self,
        coverage: Tensor,
        generator: torch.Generator,
        *,
        image: Tensor | None = None,
        scores: Tensor | None = None,
        eligible: Tensor | None = None,
    ) -> MaskSample:
        """Draw masks; see :class:`custom.masking.base.MaskStrategy`."""
        cells = read_cells(coverage, eligible, self.threshold)
        keys = uniform_keys(cells.coverage, generator)
        visible = choose_exactly(keys, self._totals(cells.eligible), cells.eligible)
        fallback = torch.zeros(len(coverage), dtype=torch.bool, device=visible.device)
        return as_sample(cells, visible, fallback, coverage, eligible is not None)

    def _totals(self, eligible: Tensor) -> Tensor:
        """Number of visible cells of each sample, ``[B]``."""
        if self.visible_cells is not None:
            check_budget(self.visible_cells, eligible.shape[1])
            total = torch.full_like(eligible[:, 0], self.visible_cells, dtype=torch.int64)
        else:
            total = round_half_up((1 - (self.ratio or 0.0)) * eligible.sum(dim=1).double())
        return limited(total, eligible)
