# SPDX-License-Identifier: Apache-2.0
"""Region-aware masks: hide the region more (or less) than the rest, and the control at an equal budget."""

from __future__ import annotations

import torch
from torch import Tensor

from custom.masking.base import (
    DEFAULT_THRESHOLD,
    FlatCells,
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

_EXTREME = 1e-6  # keeps the odds finite for ratios of 0 and 1


class RegionMasking:
    """Keeps ``round((1 - r_region) * n_region)`` region cells and ``round((1 - r_background) * n_background)`` others.

    Both are drawn uniformly (Mask What Matters, arXiv 2509.23054). Rounding is to nearest with halves upwards.

    *Floor and ceiling.* If the rule leaves fewer than ``min_visible`` cells, or hides none, the total is moved to
    ``min_visible`` or to all but one and divided as an exact budget is.

    *Exact budget.* With ``visible_cells`` every sample shows exactly that many. The division between region and
    background keeps the odds ratio of the two keep probabilities: of all divisions of the budget, the one whose
    odds of being visible, region to background, relate as those of the two ratios do.

    *Nothing to tell apart.* Where no cell or every cell counts as region, the two ratios do not define a task: the
    rule would hide the whole scan at one of them, so that a failed localization would make the easiest or the
    hardest sample. Such a sample is masked at random **at the same budget** as the others: ``visible_cells`` if
    given, otherwise the overall ratio ``fallback_ratio``. Its default, the mean of the two ratios, is what the rule
    hides when the region takes half of the cells; for a data set whose regions take the share ``f`` (see the
    summary of ``localize.yaml``), ``f * r_region + (1 - f) * r_background`` is the matching value. Such samples are
    marked in ``fallback``.

    *Soft regions.* With ``soft`` a cell is hidden at the ratio between the two that its coverage stands for. The
    number of visible cells is the rounded sum of the keep probabilities, and each cell is kept with its own
    probability to a close approximation (Pareto sampling: Rosén, Journal of Statistical Planning and Inference 62,
    1997); under an exact budget all odds change by a common factor.

    Where only some cells are eligible, all of the above is said of those.

    Args:
        region_ratio: share of region cells to hide, in [0, 1].
        background_ratio: share of the other cells to hide, in [0, 1].
        threshold: coverage from which a cell counts as region, in (0, 1]. The default, 0.05, lets an 8 px lesion
            count in a 32 px cell; the most covered cell counts in any case.
        soft: weight by coverage in place of the threshold.
        min_visible: least number of visible cells.
        visible_cells: exact number of visible cells in every sample; None lets it follow from the ratios.
        fallback_ratio: share of cells to hide where the region is empty or covers everything.

    Raises:
        ValueError: if a value is out of range.
    """

    needs_region = True

    def __init__(
        self,
        region_ratio: float = 0.7,
        background_ratio: float = 0.3,
        threshold: float = DEFAULT_THRESHOLD,
        soft: bool = False,
        min_visible: int = 1,
        visible_cells: int | None = None,
        fallback_ratio: float | None = None,
    ) -> None:
        self.region_ratio = check_ratio("region_ratio", region_ratio)
        self.background_ratio = check_ratio("background_ratio", background_ratio)
        mean = (self.region_ratio + self.background_ratio) / 2
        self.fallback_ratio = mean if fallback_ratio is None else check_ratio("fallback_ratio", fallback_ratio)
        self.threshold = check_threshold(threshold)
        if min_visible < 1:
            raise ValueError(f"min_visible must be at least 1 (something to see), received {min_visible}.")
        self.soft, self.min_visible, self.visible_cells = soft, min_visible, visible_cells

    def matched_random(self) -> RegionMatchedRandom:
        """Return the control of this very strategy: random masks with as many visible cells."""
        return RegionMatchedRandom(
            self.region_ratio,
            self.background_ratio,
            self.threshold,
            self.soft,
            self.min_visible,
            self.visible_cells,
            self.fallback_ratio,
        )

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
        fallback = self._without_contrast(cells)
        keys, total = uniform_keys(cells.coverage, generator), self._totals(cells, fallback)
        visible = self._choose(cells, fallback, keys, total)
        return as_sample(cells, visible, fallback, coverage, eligible is not None)

    def _without_contrast(self, cells: FlatCells) -> Tensor:
        """Samples ``[B]`` whose map tells no eligible cell from another."""
        contrast = cells.coverage if self.soft else cells.region.to(cells.coverage.dtype)
        least = contrast.masked_fill(~cells.eligible, torch.inf).amin(dim=1)
        return contrast.amax(dim=1) == least

    def _totals(self, cells: FlatCells, fallback: Tensor) -> Tensor:
        """Number of visible cells of each sample, ``[B]``."""
        grid, count = cells.eligible.shape[1], cells.eligible.sum(dim=1).double()
        if self.visible_cells is not None:
            check_budget(self.visible_cells, grid)
            return limited(torch.full_like(fallback, self.visible_cells, dtype=torch.int64), cells.eligible)
        if self.min_visible >= grid:
            raise ValueError(f"min_visible={self.min_visible} leaves nothing to hide in a grid of {grid} cells.")
        if self.soft:
            total = round_half_up((self._keep_probability(cells.coverage) * cells.eligible).sum(dim=1))
        else:
            inside = cells.region.sum(dim=1).double()
            total = round_half_up((1 - self.region_ratio) * inside)
            total = total + round_half_up((1 - self.background_ratio) * (count - inside))
        random_total = round_half_up((1 - self.fallback_ratio) * count)
        return limited(torch.where(fallback, random_total, total), cells.eligible, self.min_visible)

    def _choose(self, cells: FlatCells, fallback: Tensor, keys: Tensor, total: Tensor) -> Tensor:
        """Visible cells ``[B, cells]``, ``total`` of them in each sample."""
        at_random = choose_exactly(keys, total, cells.eligible)
        if self.soft:
            keep = self._keep_probability(cells.coverage).clamp(_EXTREME, 1 - _EXTREME)
            guided = choose_exactly(keys.logit() + keep.logit(), total, cells.eligible)
        else:
            background = cells.eligible & ~cells.region
            kept = self._region_share(cells.region, background, total)
            guided = choose_exactly(keys, kept, cells.region) | choose_exactly(keys, total - kept, background)
        return torch.where(fallback[:, None], at_random, guided)

    def _region_share(self, region: Tensor, background: Tensor, total: Tensor) -> Tensor:
        """Number of visible region cells ``[B]`` when ``total`` cells are visible."""
        inside, outside = region.sum(dim=1), background.sum(dim=1)
        kept = round_half_up((1 - self.region_ratio) * inside.double())
        kept_outside = round_half_up((1 - self.background_ratio) * outside.double())
        divided = torch.where(
            kept + kept_outside == total, kept, round_half_up(self._divide(inside.double(), outside.double(), total))
        )
        return torch.minimum(torch.maximum(divided, total - outside), torch.minimum(inside, total))

    def _divide(self, inside: Tensor, outside: Tensor, total: Tensor) -> Tensor:
        """Solve ``x (outside - total + x) = t (inside - x)(total - x)`` for ``x`` region cells; ``t`` = odds ratio."""
        keep = torch.tensor([1 - self.region_ratio, 1 - self.background_ratio], dtype=torch.float64)
        ratio = float(keep.clamp(_EXTREME, 1 - _EXTREME).logit().diff().neg().exp())
        a, b, c = 1 - ratio, outside - total + ratio * (inside + total), ratio * inside * total
        root = (b * b + 4 * a * c).clamp_min(0).sqrt()
        # Of the two forms of the same root, take the one that does not subtract nearly equal numbers.
        return torch.where(b >= 0, 2 * c / (b + root).clamp_min(_EXTREME), (root - b) / (2 * a or 1.0))

    def _keep_probability(self, coverage: Tensor) -> Tensor:
        return 1 - (self.background_ratio + coverage * (self.region_ratio - self.background_ratio))


class RegionMatchedRandom(RegionMasking):
    """Random masks with the number of visible cells that :class:`RegionMasking` would have shown on the same scan.

    The control at an equal budget: it differs from region masking in *where* it hides, not in how much. Takes the
    arguments of :class:`RegionMasking`.
    """

    def _choose(self, cells: FlatCells, fallback: Tensor, keys: Tensor, total: Tensor) -> Tensor:
        return choose_exactly(keys, total, cells.eligible)
