# SPDX-License-Identifier: Apache-2.0
"""Uniformly random masks, as in SparK and MAE."""

from __future__ import annotations

import torch
from torch import Tensor

from custom.masking.base import (
    DEFAULT_THRESHOLD,
    MaskSample,
    check_budget,
    check_ratio,
    check_threshold,
    choose_exactly,
    flat_coverage,
    region_cells,
    round_half_up,
    uniform_keys,
)


class RandomMasking:
    """Hides cells uniformly, wherever the region lies (SparK, arXiv 2301.03580, section 3.1).

    The number of visible cells is the same in every sample: ``round((1 - ratio) * cells)``, at least one and at
    most all but one, or exactly ``visible_cells``.

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
        self, coverage: Tensor, generator: torch.Generator, *, image: Tensor | None = None, scores: Tensor | None = None
    ) -> MaskSample:
        """Draw masks; see :class:`custom.masking.base.MaskStrategy`."""
        flat = flat_coverage(coverage)
        count = torch.full((flat.shape[0],), self.budget(flat.shape[1]), device=flat.device)
        visible = choose_exactly(uniform_keys(flat, generator), count)
        region = region_cells(flat, self.threshold)
        fallback = torch.zeros(flat.shape[0], dtype=torch.bool, device=flat.device)
        return MaskSample(visible.reshape(coverage.shape), region.reshape(coverage.shape), fallback)

    def budget(self, cells: int) -> int:
        """Number of visible cells in a grid of ``cells``."""
        if self.visible_cells is not None:
            check_budget(self.visible_cells, cells)
            return self.visible_cells
        ratio = self.ratio or 0.0
        kept = int(round_half_up(torch.tensor((1 - ratio) * cells, dtype=torch.float64)))
        return min(max(kept, 1), cells - 1)
