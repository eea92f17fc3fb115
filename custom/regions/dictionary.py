# SPDX-License-Identifier: Apache-2.0
"""Localization as a dictionary transform of MONAI."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from custom.keys import MIMKeys
from custom.localizers.windows import noted
from custom.regions.record import RegionRecord, digest
from custom.regions.store import RegionStore, quantize
from datasets.file_grid import FileGrid

if TYPE_CHECKING:
    from custom.localizers.base import Localizer


class LocalizeRegiond(MapTransform):
    """Adds the map of the region that a prompt names; reads it where it was made before.

    Deterministic, so MONAI's cached datasets keep its result. Put it before every crop and resize: maps belong to
    the scan as it was loaded. Values come in steps of 1/255, whether just made or read.

    Args:
        keys: the scan, ``[C, *spatial]``.
        localizer: makes the maps; may be None with a ``read_only`` store.
        prompts: one phrase (commas included), or several phrases. A scan whose dictionary has ``prompts`` (a list, some
            of these) is asked for those only: the maps of the others are zero, and neither made nor stored. So every
            scan of a run has ``P`` maps, whatever each was asked for.
        region_key: result, a MetaTensor ``[P, *spatial]`` float32 in [0, 1] with the scan's affine; a map of zeros
            means that nothing was found.
        store: keeps the maps; None: make them anew for each run.
        threshold: probability from which a voxel counts in the coverage that the record states.
        union: one map ``[1, *spatial]``, the largest probability over the prompts, instead of one a prompt: all that
            masking needs, and less to keep where the scans of a set are asked for many different things.

    Raises:
        ValueError: if there is no prompt or no localizer; when called, if the localizer's or the store's map does
            not fit the scan, or the scan's own prompts are none of the run's.
    """

    def __init__(
        self,
        keys: KeysCollection = MIMKeys.IMAGE,
        localizer: Localizer | None = None,
        prompts: str | Sequence[str] = (),
        region_key: str = MIMKeys.REGION,
        store: RegionStore | None = None,
        threshold: float = 0.5,
        union: bool = False,
    ) -> None:
        super().__init__(keys)
        self.prompts = [prompts] if isinstance(prompts, str) else [str(prompt) for prompt in prompts]
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f'A prompt must name what to localize, for example "brain tumor"; received {prompts!r}.')
        if localizer is None and not (store and store.read_only):
            raise ValueError("Give a localizer, or a read-only store of maps made before.")
        self.localizer, self.region_key, self.store, self.threshold = localizer, region_key, store, threshold
        self.union = union

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the region map added."""
        result = dict(data)
        image = result[self.keys[0]]
        scan_id = _scan_id(result, image)
        asked = self.asked(result, scan_id)
        maps = self._maps(image, scan_id, asked)
        nothing = torch.zeros(image.shape[1:])
        region = torch.stack([maps.get(prompt, nothing) for prompt in (asked if self.union else self.prompts)])
        affine = image.affine if isinstance(image, MetaTensor) else None
        result[self.region_key] = MetaTensor(region.amax(dim=0, keepdim=True) if self.union else region, affine=affine)
        return result

    def asked(self, data: Mapping[Hashable, Any], scan_id: str = "") -> list[str]:
        """Return the phrases that a scan is asked for: its own, or those of the run."""
        own = data.get(MIMKeys.PROMPTS)
        if not own:
            return self.prompts
        unknown = [prompt for prompt in own if prompt not in self.prompts]
        if unknown:
            raise ValueError(
                f"Scan {scan_id}: its prompt {unknown[0]!r} is none of the run's ({', '.join(self.prompts)})."
            )
        return list(dict.fromkeys(own))

    def _maps(self, image: Tensor, scan_id: str, prompts: Sequence[str]) -> dict[str, Tensor]:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        expected = self._records(plain, prompts)
        maps: dict[str, Tensor] = {}
        if self.store is not None:
            grid = FileGrid.of(image)
            loaded = {prompt: self.store.load(scan_id, prompt, record, grid) for prompt, record in expected.items()}
            maps = {prompt: found for prompt, found in loaded.items() if found is not None}
            for prompt, found in maps.items():
                _check_stored(found, plain, scan_id, self.store)
                if self.store.read_only:
                    self.store.check_scan(scan_id, prompt, plain)
        missing = [prompt for prompt in expected if prompt not in maps]
        if missing and self.localizer is not None:
            maps |= self._make(self.localizer, image, scan_id, {prompt: expected[prompt] for prompt in missing})
        return maps

    def _records(self, image: Tensor, prompts: Sequence[str]) -> dict[str, RegionRecord]:
        """What a stored map must match, for each prompt."""
        how = self.localizer.describe() if self.localizer else {}
        # A read-only store takes maps whoever made them; whether they are of the scans is looked at once they are read.
        source = "" if self.store is None or self.store.read_only else digest(image)
        shape = tuple(image.shape[1:])
        return {
            prompt: RegionRecord(how, prompt, shape, source, self.threshold, channels=len(image)) for prompt in prompts
        }

    def _make(
        self, localizer: Localizer, image: Tensor, scan_id: str, records: Mapping[str, RegionRecord]
    ) -> dict[str, Tensor]:
        start = time.perf_counter()
        scan, shown = noted(image)
        try:
            found = localizer.localize(scan, list(records))
        except Exception as error:
            error.add_note(f"Raised while localizing in the scan {scan_id}.")
            raise
        seconds = (time.perf_counter() - start) / len(records)
        _check_made(found, (len(records), *image.shape[1:]), scan_id, localizer)
        maps = {}
        for prompt, probability in zip(records, found, strict=True):
            maps[prompt] = quantize(_plain(probability)) / 255
            if self.store is not None:
                how = shown.get(prompt, "; ".join(dict.fromkeys(shown.values())))  # of phrasings of the prompt
                record = replace(_measured(records[prompt], maps[prompt], seconds), shown=how)
                affine = image.affine if isinstance(image, MetaTensor) else None
                self.store.save(scan_id, prompt, maps[prompt], record, affine, FileGrid.of(image))
        return maps


def _measured(record: RegionRecord, region: Tensor, seconds: float) -> RegionRecord:
    return replace(
        record,
        coverage=float((region >= record.threshold).double().mean()),
        score=round(float(region.max()), 6),
        seconds=round(seconds, 4),
    )


def _check_made(found: Any, shape: tuple[int, ...], scan_id: str, localizer: Localizer) -> None:
    name = f"Scan {scan_id}: {type(localizer).__name__}"
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        received = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name} must return a tensor of {shape} (prompts, *spatial), returned {received}.")
    # A comparison with NaN is False, so this refuses NaN as well.
    if not bool(((found >= 0) & (found <= 1 + 1e-6)).all()):
        low, high = float(found.min()), float(found.max())
        raise ValueError(f"{name} must return probabilities in [0, 1], returned values from {low} to {high}.")


def _check_stored(found: Tensor, image: Tensor, scan_id: str, store: RegionStore) -> None:
    if found.shape != image.shape[1:]:
        raise ValueError(
            f"Scan {scan_id}: the region map in {store.root} has the size {tuple(found.shape)}, the scan "
            f"{tuple(image.shape[1:])}. Read scans as localize.yaml did (same --spacing), or make the maps anew."
        )


def _scan_id(data: Mapping, image: Any) -> str:
    if MIMKeys.SCAN_ID in data:
        return str(data[MIMKeys.SCAN_ID])
    name = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    if name is None:
        raise ValueError(
            f"A scan needs a name to keep its region map under: add '{MIMKeys.SCAN_ID}' to its dictionary."
        )
    return str(name).lstrip("/")


def _plain(value: Tensor) -> Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else value
