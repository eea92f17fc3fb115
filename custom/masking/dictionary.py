# SPDX-License-Identifier: Apache-2.0
"""Masking as a dictionary transform of MONAI."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple_rep
from torch import Tensor

from custom.keys import MIMKeys
from custom.masking.base import MaskSample, MaskStrategy
from custom.masking.content import AIR, content_cells
from custom.regions.coverage import cell_coverage


class RandRegionMaskd(Randomizable, MapTransform):
    """Draws the visible cells of a scan, anew each time the scan is read.

    Put it last: its cells are those of the image that the network receives. Being random it is never cached; in
    MONAI's ``DataLoader`` each worker and each epoch draws different masks, reproducibly from the loader's seed.

    Args:
        strategy: draws the mask.
        cell_size: edge of a cell in pixels or voxels, one number or one per spatial axis. It may be smaller than
            the encoder's stride.
        image_key: the scan, ``[C, *spatial]``; ``*spatial`` must be divisible by ``cell_size``.
        region_key: the region map, ``[P, *spatial]`` in [0, 1].
        visible_key: result, boolean ``[1, *grid]``, True = visible.
        info_key: result, a dictionary of numbers, see :func:`mask_info`.
        allow_missing_region: accept scans without region map if the strategy does not need one.
        skip_empty: leave cells of pure background out: they are hidden from the network, and ``content_key`` says that
            nobody wants them back. A scan with fewer than two other cells keeps all its cells.
        empty_threshold: a cell is empty if no voxel exceeds this intensity; see :func:`content_cells`.
        content_key: result if ``skip_empty``, boolean ``[1, *grid]``, False = left out.

    Raises:
        ValueError: if ``empty_threshold`` is negative; (when called) if a size does not fit or a needed region map is
            missing.
    """

    def __init__(
        self,
        strategy: MaskStrategy,
        cell_size: int | Sequence[int],
        image_key: KeysCollection = MIMKeys.IMAGE,
        region_key: str = MIMKeys.REGION,
        visible_key: str = MIMKeys.VISIBLE,
        info_key: str = MIMKeys.MASK_INFO,
        allow_missing_region: bool = True,
        skip_empty: bool = False,
        empty_threshold: float = AIR,
        content_key: str = MIMKeys.CONTENT,
    ) -> None:
        MapTransform.__init__(self, image_key)
        self.strategy, self.cell_size = strategy, cell_size
        self.image_key, self.region_key = self.keys[0], region_key
        self.visible_key, self.info_key = visible_key, info_key
        self.allow_missing_region = allow_missing_region
        if empty_threshold < 0:
            raise ValueError(f"empty_threshold must not be negative (an intensity), received {empty_threshold}.")
        self.skip_empty, self.empty_threshold, self.content_key = skip_empty, empty_threshold, content_key
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of the next mask."""
        self._seed = int(self.R.randint(2**31 - 1))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the mask and its realised ratios added."""
        result = dict(data)
        image = _plain(result[self.image_key])
        name = _scan_name(result, self.image_key)
        cell_size = ensure_tuple_rep(self.cell_size, image.ndim - 1)
        _check_size(tuple(image.shape[1:]), cell_size, name)
        coverage = self._coverage(result, image, cell_size, name)
        self.randomize()
        generator = torch.Generator().manual_seed(self._seed)
        content = content_cells(image, cell_size, self.empty_threshold)[None] if self.skip_empty else None
        drawn = self.strategy.sample(coverage[None], generator, image=image[None], eligible=content)
        result[self.visible_key] = drawn.visible
        if drawn.eligible is not None:
            result[self.content_key] = drawn.eligible
        result[self.info_key] = {key: float(value[0]) for key, value in mask_info(drawn).items()}
        return result

    def _coverage(self, data: dict, image: Tensor, cell_size: tuple[int, ...], name: str) -> Tensor:
        if self.region_key not in data:
            if self.strategy.needs_region or not self.allow_missing_region:
                raise ValueError(
                    f"{name} has no '{self.region_key}' map, which {type(self.strategy).__name__} needs. "
                    "Put LocalizeRegiond before the masking, or choose a strategy such as random."
                )
            return image.new_zeros([size // cell for size, cell in zip(image.shape[1:], cell_size, strict=True)])
        region = _plain(data[self.region_key])
        if region.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"{name}: the region map has the size {tuple(region.shape[1:])}, the image {tuple(image.shape[1:])}. "
                "Apply every crop and resize to both keys."
            )
        return cell_coverage(region, cell_size)


def mask_info(drawn: MaskSample) -> dict[str, Tensor]:
    """Realised ratios of drawn masks, each a float tensor ``[B]``. Cells that took no part count for none but the last.

    - ``hidden_ratio``: share of hidden cells, of all;
    - ``region_hidden_ratio``, ``background_hidden_ratio``: of the region cells, of the others (0 if there are none);
    - ``region_share``: share of region cells, of all;
    - ``fallback``: 1 where the strategy fell back to a random mask;
    - ``empty_share``, only where cells could be left out: their share of all cells.
    """
    hidden, region = ~drawn.visible.flatten(1), drawn.region.flatten(1)
    eligible = torch.ones_like(hidden) if drawn.eligible is None else drawn.eligible.flatten(1)
    info = {
        "hidden_ratio": _share(hidden, eligible),
        "region_hidden_ratio": _share(hidden, region),
        "background_hidden_ratio": _share(hidden, eligible & ~region),
        "region_share": _share(region, eligible),
        "fallback": drawn.fallback.double(),
    }
    return info if drawn.eligible is None else {**info, "empty_share": 1 - eligible.double().mean(dim=1)}


def _share(cells: Tensor, among: Tensor) -> Tensor:
    """Share of cells among others, ``[B]``; 0 where there are no others."""
    return (cells & among).sum(dim=1).double() / among.sum(dim=1).clamp_min(1)


def _check_size(spatial: tuple[int, ...], cell_size: tuple[int, ...], name: str) -> None:
    if any(cell < 1 for cell in cell_size):
        raise ValueError(f"cell_size must be positive, received {cell_size}.")
    if all(size >= cell and size % cell == 0 for size, cell in zip(spatial, cell_size, strict=True)):
        return
    fitting = tuple(-(-size // cell) * cell for size, cell in zip(spatial, cell_size, strict=True))
    small = any(size < cell for size, cell in zip(spatial, cell_size, strict=True))
    problem = "is smaller than a cell" if small else "is not divisible by the cell size"
    raise ValueError(
        f"{name}: the image of {spatial} {problem} of {cell_size}. "
        f"Resize or pad it to {fitting}, or choose another cell_size."
    )


def _scan_name(data: Mapping, image_key: Hashable) -> str:
    if MIMKeys.SCAN_ID in data:
        return f"Scan {data[MIMKeys.SCAN_ID]}"
    image = data[image_key]
    return f"Scan {image.meta.get('filename_or_obj', '(no name)')}" if isinstance(image, MetaTensor) else "The scan"


def _plain(image: Any) -> Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
