# SPDX-License-Identifier: Apache-2.0
"""A folder of region maps: 8-bit lossless pictures (2D) or NIfTI volumes (3D), each beside its record."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from custom.files import remove_abandoned, temporary_file
from custom.regions.record import RegionRecord, digest

_SLUG_LENGTH = 60


class RegionStore:
    """Keeps region maps in ``<root>/maps/<scan_id>/<prompt>.png`` (2D) or ``.nii.gz`` (3D) and ``<prompt>.json``.

    A map is written before its record and both by renaming, and the record holds the map's hash: an interrupted
    run, or two runs that write the same map, leave a whole map or one that is made again, never a wrong one.
    What a killed run had half written is removed when its folder is written to again, or by :meth:`tidy`.
    2D maps are stored as pictures, upright in any viewer; 3D maps with the scan's affine and the NIfTI slope 1/255.

    Args:
        root: folder of the store; made when the first map is saved.
        read_only: only read. Maps are then taken as they are, whichever localizer made them and even if edited by
            hand, and a missing one is an error.
    """

    def __init__(self, root: str | Path, read_only: bool = False) -> None:
        self.root, self.read_only = Path(root), read_only

    def load(self, scan_id: str, prompt: str, record: RegionRecord | None = None) -> Tensor | None:
        """Read a map.

        Args:
            scan_id: name of the scan, a relative path.
            prompt: the phrase that was localized.
            record: what the map must match; None: any map of that scan and prompt. Not looked at if ``read_only``.

        Returns:
            Probabilities ``[*spatial]`` in [0, 1], float32; None if there is no such map, or not a matching one.

        Raises:
            ValueError: if ``read_only`` and the map is missing or unreadable, or ``scan_id`` is no relative path.
        """
        stem = self._stem(scan_id, prompt)
        if self.read_only:
            return self._load_given(stem, scan_id, prompt)
        found = self.record(scan_id, prompt)
        if found is None or (record is not None and not found.matches(record)):
            return None
        values = _read(_map_file(stem, len(found.shape)))
        return None if values is None or digest(values) != found.map_digest else values / 255

    def save(
        self,
        scan_id: str,
        prompt: str,
        map: Tensor,
        record: RegionRecord,
        affine: Tensor | np.ndarray | None = None,
    ) -> None:
        """Write a map and its record.

        Args:
            scan_id: name of the scan, a relative path.
            prompt: the phrase that was localized.
            map: probabilities ``[*spatial]`` in [0, 1]; kept in steps of 1/255.
            record: how it was made; the map's hash is filled in.
            affine: ``[4, 4]``, voxel to RAS millimetres, of a 3D scan.

        Raises:
            ValueError: if the store is ``read_only``, or ``scan_id`` is no relative path.
            OSError: if the files cannot be written; an earlier map and its record are then left as they were.
        """
        if self.read_only:
            raise ValueError(f"{self.root} was opened to be read only; choose another folder to make region maps in.")
        stem, values = self._stem(scan_id, prompt), quantize(map)
        stem.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(stem.parent)
        complete = replace(record, map_digest=digest(values))
        if values.ndim == 2:
            _write_whole(_map_file(stem, 2), lambda path: Image.fromarray(values.numpy().T).save(path))
        else:
            _write_whole(_map_file(stem, values.ndim), lambda path: nibabel.save(_volume(values, affine), path))
        _write_whole(_with_suffix(stem, ".json"), complete.save)

    def record(self, scan_id: str, prompt: str) -> RegionRecord | None:
        """Return the record of a map, None if there is none."""
        return RegionRecord.load(_with_suffix(self._stem(scan_id, prompt), ".json"))

    def file(self, scan_id: str, prompt: str, dims: int) -> Path:
        """Return where the map of a scan with ``dims`` spatial dimensions lies, or would lie."""
        return _map_file(self._stem(scan_id, prompt), dims)

    def tidy(self) -> int:
        """Remove what killed runs had half written, never what a living process writes; return how many files."""
        return sum(remove_abandoned(Path(folder)) for folder, _, _ in os.walk(self.root / "maps"))

    def _load_given(self, stem: Path, scan_id: str, prompt: str) -> Tensor:
        for dims in (2, 3):
            values = _read(_map_file(stem, dims))
            if values is not None:
                return values / 255
        raise ValueError(
            f"Scan {scan_id} has no readable region map for the prompt {prompt!r} in {self.root}. Make it with "
            f"bundle/configs/localize.yaml (the same --dataset_dir and --prompt, --output_dir {self.root}), "
            "or leave out --region_dir to make maps as needed."
        )

    def _stem(self, scan_id: str, prompt: str) -> Path:
        path = PurePosixPath(scan_id)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in scan_id or "\\" in scan_id:
            raise ValueError(f"A scan id must be a relative path that stays in its folder, received {scan_id!r}.")
        return self.root / "maps" / path / prompt_slug(prompt)


def prompt_slug(prompt: str) -> str:
    """File name of a prompt: readable, different for different prompts (a short hash where letters were lost)."""
    slug = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:_SLUG_LENGTH]
    if slug and slug.replace("_", " ") == prompt:
        return slug
    return f"{slug or 'prompt'}-{hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()}"


def quantize(probability: Tensor) -> Tensor:
    """Return probabilities in [0, 1] as ``uint8`` 0..255."""
    return (probability.detach().cpu().to(torch.float64) * 255).round().clamp(0, 255).to(torch.uint8)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _map_file(stem: Path, dims: int) -> Path:
    return _with_suffix(stem, ".png" if dims == 2 else ".nii.gz")


def _volume(values: Tensor, affine: Tensor | np.ndarray | None) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(values.numpy(), np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64))
    # With a slope set, nibabel writes the array as it is: other software then reads probabilities.
    image.header.set_slope_inter(1 / 255, 0)
    return image


def _read(path: Path) -> Tensor | None:
    """The 8-bit map ``[*spatial]`` of a file; None if there is none or it cannot be read."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                return torch.from_numpy(np.asarray(picture.convert("L")).T.copy())
        # Scaled values, so that a mask of zeros and ones drawn by hand is read as it is meant.
        values = nibabel.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32)
        return quantize(torch.from_numpy(values))
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError):
        return None


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there when it is complete."""
    with temporary_file(path) as temporary:
        write(temporary)
        os.replace(temporary, path)
