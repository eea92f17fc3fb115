# SPDX-License-Identifier: Apache-2.0
"""`ScanDataset`: MONAI's cached dataset, with one answer to scans that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import CacheDataset

from datasets.errors import ScanError

logger = logging.getLogger(__name__)


class ScanDataset(CacheDataset):
    """Scans of a datalist behind a chain of transforms, whose deterministic part is computed once.

    A transform that fails on a scan raises its own error (not MONAI's wrapper), with a note that names the scan.

    Args:
        data: items of a datalist.
        transform: transforms in order; what precedes the first random one is cached.
        skip_bad: leave out scans that raise a `ScanError`, with a warning each, instead of raising it. Other errors
            are mistakes in a configuration or program and always raise.
        cache: whether to keep the deterministic part's results in memory. With ``cache=False`` and ``skip_bad`` every
            scan is read once at the start to find the bad ones.
        num_workers: threads that fill the cache.
        progress: whether to show a progress bar.

    Attributes:
        skipped: pairs of scan id and message.

    Raises:
        ScanError: a scan cannot be used, or with ``skip_bad`` none of them can.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable | None = None,
        skip_bad: bool = False,
        cache: bool = True,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        self.skip_bad = skip_bad
        self.skipped: list[tuple[str, str]] = []
        rate = 1.0 if cache else 0.0
        super().__init__(list(data), transform or (), cache_rate=rate, num_workers=num_workers, progress=progress)

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Take other scans: fill the cache and leave out the bad ones, if so asked."""
        self.skipped = []
        data = list(data)
        if not data:
            raise ScanError("dataset", "no scans to read", "Check --dataset_dir, the splits, and for a task the labels")
        super().set_data(data)
        if not self.skip_bad:
            return
        results = self._cache or [self._probe(index) for index in range(len(data))]
        good = [index for index, result in enumerate(results) if not isinstance(result, ScanError)]
        for item, result in zip(data, results, strict=True):
            if isinstance(result, ScanError):
                logger.warning("Left out: %s", result)
                self.skipped.append((_name(item), str(result)))
        if not good:
            first = self.skipped[0][1]
            raise ScanError(f"{len(data)} scans", f"none of them can be used; the first: {first}")
        self.data = [data[index] for index in good]
        if self._cache:
            self._cache = [results[index] for index in good]
            self.cache_num = len(good)

    def prepared(self) -> list[Any]:
        """Return the scans behind the deterministic transforms, before the first random one; not to be changed."""
        return list(self._cache) or [self._load_cache_item(index) for index in range(len(self.data))]

    def _load_cache_item(self, idx: int) -> Any:
        try:
            return super()._load_cache_item(idx)
        except Exception as error:
            cause = _root_cause(error, _name(self.data[idx]))
            if self.skip_bad and isinstance(cause, ScanError):
                return cause
            raise cause from None

    def _probe(self, index: int) -> ScanError | None:
        result = self._load_cache_item(index)
        return result if isinstance(result, ScanError) else None

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except Exception as error:
            raise _root_cause(error, _name(self.data[index])) from None


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("scan_id", item.get("image", "?")))


def _root_cause(error: BaseException, scan: str) -> BaseException:
    """First error of a chain, in which MONAI's Compose wraps what a transform raised."""
    while error.__cause__ is not None and not isinstance(error, ScanError):
        error = error.__cause__
    if not isinstance(error, ScanError):
        error.add_note(f"while preparing the scan {scan}")
    return error
