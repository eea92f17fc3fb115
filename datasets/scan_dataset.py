# SPDX-License-Identifier: Apache-2.0
"""A cached dataset that says which scan failed, and can go on without it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from monai.data import CacheDataset
from tqdm import tqdm

from datasets.errors import ScanError

logger = logging.getLogger(__name__)


class ScanDataset(CacheDataset):
    """Scans after their deterministic transforms, held in memory; random transforms run at each access.

    Args:
        data: datalist entries.
        transform: a ``Compose``; everything before its first random transform is computed once.
        skip_bad: leave out scans that fail, log each and list it in ``skipped``; False: raise at the first one.
        progress: show a progress bar while reading.

    Attributes:
        skipped: ``(scan_id, message)`` of the scans left out.

    Raises:
        ScanError: if ``data`` is empty, a scan fails, or none is left.
    """

    def __init__(
        self, data: Sequence[dict[str, Any]], transform: Callable, skip_bad: bool = False, progress: bool = True
    ) -> None:
        if not data:
            raise ScanError("dataset", "no scans to read", "Check dataset_dir and the splits of its scans")
        self.skip_bad = skip_bad
        self.skipped: list[tuple[str, str]] = []
        super().__init__(list(data), transform, progress=progress)

    def _fill_cache(self, indices: Iterable[int] | None = None) -> list[Any]:
        cached = {}
        for index in tqdm(list(indices or []), desc="reading scans", disable=not self.progress):
            try:
                cached[index] = self._load_cache_item(index)
            except Exception as error:
                self._report(self.data[index], root_cause(error))
        if not cached:
            name, message = self.skipped[0]
            raise ScanError(name, f"{message} (none of {len(self.data)} scans can be used)", "Correct the first one")
        self.data = [self.data[index] for index in cached]
        self.cache_num = len(cached)
        return list(cached.values())

    def _report(self, item: dict[str, Any], error: BaseException) -> None:
        name = str(item.get("scan_id", item["image"]))
        if not self.skip_bad:
            if isinstance(error, ScanError):
                raise error
            raise ScanError(
                name, str(error), "Correct or remove the scan; --skip_bad true leaves such scans out"
            ) from error
        logger.warning("Skipped %s: %s", name, error)
        self.skipped.append((name, str(error)))


def root_cause(error: BaseException) -> BaseException:
    """The error that started a chain: MONAI wraps what a transform raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
