# SPDX-License-Identifier: Apache-2.0
"""Records of region maps: how a map was made and what it holds."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import monai
import torch
from torch import Tensor


@functools.cache
def software_versions() -> dict[str, str]:
    """Versions of the libraries that made a map."""
    versions = {"monai": str(monai.__version__), "torch": str(torch.__version__)}
    for name in ("transformers", "open_clip_torch"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def digest(array: Tensor) -> str:
    """Short hash of a tensor's shape, type and values."""
    plain = array.detach().cpu().contiguous()
    state = hashlib.blake2b(f"{tuple(plain.shape)} {plain.dtype}".encode(), digest_size=16)
    state.update(plain.numpy().reshape(-1).data)
    return state.hexdigest()


@dataclass(frozen=True)
class RegionRecord:
    """What is written beside a region map.

    Args:
        localizer: the localizer's ``describe()``: name, revision, parameters.
        prompt: the phrase that was localized.
        shape: size of the map, that of the loaded scan.
        image_digest: hash of the loaded scan that the map was made from; empty: unknown.
        channels: of that scan; None: unknown.
        threshold: probability from which a voxel counts in ``coverage``.
        coverage: share of voxels at or above the threshold, in [0, 1].
        score: the largest probability of the map; 0 = nothing found.
        seconds: time that the localizer took for this map.
        map_digest: hash of the 8-bit map.
        shown: how models of pictures were shown the scan where they were to choose (``window: auto``), and why.
        software: versions of the libraries.
    """

    localizer: Mapping[str, Any]
    prompt: str
    shape: tuple[int, ...]
    image_digest: str
    threshold: float = 0.5
    coverage: float = 0.0
    score: float = 0.0
    seconds: float = 0.0
    map_digest: str = ""
    shown: str = ""
    software: Mapping[str, str] = field(default_factory=software_versions)
    channels: int | None = None

    def matches(self, other: RegionRecord) -> bool:
        """Whether both describe the same map: same localizer, prompt and scan, whatever it took to make it."""
        return self._key() == other._key()

    def is_of(self, image: Tensor) -> bool | None:
        """Whether the map was made from a scan ``[C, *spatial]``; None where nothing tells.

        Grey scans are known again in three channels, and in one; colours read as grey cannot be compared.
        """
        if not self.image_digest:
            return None
        if digest(image) == self.image_digest:
            return True
        grey = image[:1]
        if bool((image == grey).all()) and self.image_digest in {digest(grey), digest(grey.expand(3, *grey.shape[1:]))}:
            return True
        return None if self.channels is not None and self.channels != len(image) else False

    def save(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RegionRecord | None:
        """Read a record; None if there is none, or it is not one (a half-written or foreign file)."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {each.name for each in fields(cls)}
            record = cls(**{key: value for key, value in values.items() if key in known})
            return cls(**{**vars(record), "shape": tuple(record.shape)})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    def _key(self) -> str:
        # Through JSON, because a description that was read back holds lists in place of tuples.
        return json.dumps([self.localizer, self.prompt, list(self.shape), self.image_digest], sort_keys=True)
