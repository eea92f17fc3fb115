# SPDX-License-Identifier: Apache-2.0
"""A folder of region maps: 8-bit lossless pictures, or NIfTI on the voxels of the scan's file, beside their records."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from custom.files import remove_abandoned, temporary_file
from custom.regions.record import RegionRecord, digest
from datasets.decoding import open_nifti
from datasets.errors import ScanError
from datasets.file_grid import FileGrid, nifti_on
from datasets.readers.paths import leads_out

logger = logging.getLogger(__name__)

_SLUG_LENGTH = 60


class RegionStore:
    """Keeps region maps in ``<root>/maps/<scan_id>/<prompt>.png`` (pictures) or ``.nii.gz``, and ``<prompt>.json``.

    A map is written before its record and both by renaming, and the record holds the map's hash: an interrupted
    run, or two runs that write the same map, leave a whole map or one that is made again, never a wrong one.
    What a killed run had half written is removed when its folder is written to again, or by :meth:`tidy`.
    Maps of pictures are pictures, upright in any viewer; those of scans with a place in space are NIfTI with the slope
    1/255, which lie voxel by voxel on the scan's file, with its axes and forms. Maps that lie as scans do in memory
    (RAS+), as stores held them before, are read as well.

    Args:
        root: folder of the store; made when the first map is saved.
        read_only: only read. Maps are then taken as they are, whichever localizer made them and even if edited by
            hand, but only for the scans that they were made from; a missing one is an error.

    - ``compared``: how many maps were found to be of their scans ("same"), of others ("other"), or could not be
      compared with them ("unknown"), see :meth:`check_scan`.
    """

    def __init__(self, root: str | Path, read_only: bool = False) -> None:
        self.root, self.read_only = Path(root), read_only
        self.compared: Counter[str] = Counter()

    def load(
        self, scan_id: str, prompt: str, record: RegionRecord | None = None, grid: FileGrid | None = None
    ) -> Tensor | None:
        """Read a map.

        Args:
            scan_id: name of the scan, a relative path.
            prompt: the phrase that was localized.
            record: what the map must match; None: any map of that scan and prompt. Not looked at if ``read_only``.
            grid: of the scan; None: the map comes with the axes of its file.

        Returns:
            Probabilities ``[*spatial]`` in [0, 1], float32, on the scan in memory; None if there is no such map, or
            not a matching one.

        Raises:
            ValueError: if ``read_only`` and the map is missing or unreadable, or ``scan_id`` is no relative path.
        """
        stem = self._stem(scan_id, prompt)
        if self.read_only:
            return self._load_given(stem, scan_id, prompt, grid)
        found = self.record(scan_id, prompt)
        if found is None or (record is not None and not found.matches(record)):
            return None
        dims = len(found.shape)
        for file in _map_files(stem):
            read = None if leads_out(self.root, file) else _read(file)
            if read is not None and digest(read.values) == found.map_digest:
                return _in_memory(read, grid, dims) / 255
        return None

    def save(
        self,
        scan_id: str,
        prompt: str,
        map: Tensor,
        record: RegionRecord,
        affine: Tensor | np.ndarray | None = None,
        grid: FileGrid | None = None,
    ) -> None:
        """Write a map and its record.

        Args:
            scan_id: name of the scan, a relative path.
            prompt: the phrase that was localized.
            map: probabilities ``[*spatial]`` in [0, 1]; kept in steps of 1/255.
            record: how it was made; the map's hash is filled in.
            affine: ``[4, 4]``, voxel to RAS millimetres, of a 3D scan that comes from no file.
            grid: of the scan's file; None: of a picture, or of a tensor that comes from no file.

        Raises:
            ValueError: if the store is ``read_only``, or ``scan_id`` is no relative path.
            OSError: if the files cannot be written; an earlier map and its record are then left as they were.
        """
        if self.read_only:
            raise ValueError(f"{self.root} was opened to be read only; choose another folder to make region maps in.")
        stem, values = self._stem(scan_id, prompt), quantize(map)
        stem.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(stem.parent)
        if grid is not None:
            values, affine = torch.from_numpy(grid.to_file(values.numpy()).copy()), grid.affine
        complete = replace(record, map_digest=digest(values))
        file = _map_file(stem, values.ndim)
        if values.ndim == 2:
            _write_whole(file, lambda path: Image.fromarray(values.numpy().T).save(path))
        else:
            image = _volume(values, affine, None if grid is None else grid.path)
            _write_whole(file, lambda path: nibabel.save(image, path))
        _write_whole(_with_suffix(stem, ".json"), complete.save)
        for other in set(_map_files(stem)) - {file}:
            other.unlink(missing_ok=True)

    def record(self, scan_id: str, prompt: str) -> RegionRecord | None:
        """Return the record of a map, None if there is none."""
        return RegionRecord.load(_with_suffix(self._stem(scan_id, prompt), ".json"))

    def check_scan(self, scan_id: str, prompt: str, image: Tensor) -> None:
        """Refuse a map that was made from another scan of the same name.

        Args:
            scan_id: name of the scan.
            prompt: the phrase that was localized.
            image: the scan, ``[C, *spatial]``.

        Raises:
            ScanError: if the map's record holds the hash of another scan.
        """
        record = self.record(scan_id, prompt)
        same = None if record is None else record.is_of(image)
        self.compared[{True: "same", False: "other", None: "unknown"}[same]] += 1
        unknown = self.compared["unknown"]
        if same is None and str(unknown).rstrip("0") == "1":  # the 1st, 10th, 100th
            logger.warning(
                "%s: %d region maps so far do not tell of which scans they are (the latest: %s); they are taken as "
                "they are.",
                self.root, unknown, scan_id,
            )  # fmt: skip
        if same is False:
            raise ScanError(
                scan_id,
                f"its region map for {prompt!r} in {self.root} was made from another scan of this name, or from this "
                f"one read otherwise ({self.compared['other']} of {self.compared.total()} maps so far)",
                f"Run localize.yaml once more with --output_dir {self.root}, which makes those maps anew that do not "
                "fit (--channels and --spacing as here); or give the region_dir of these scans",
            )

    def file(self, scan_id: str, prompt: str, dims: int) -> Path:
        """Return where the map of a scan with ``dims`` spatial dimensions lies; if there is none, of a picture."""
        stem = self._stem(scan_id, prompt)
        volume = _map_file(stem, 3)
        return volume if volume.is_file() else _map_file(stem, dims)

    def tidy(self) -> int:
        """Remove what killed runs had half written, never what a living process writes; return how many files."""
        return sum(remove_abandoned(Path(folder)) for folder, _, _ in os.walk(self.root / "maps"))

    def _load_given(self, stem: Path, scan_id: str, prompt: str, grid: FileGrid | None) -> Tensor:
        for file in _map_files(stem):
            read = None if leads_out(self.root, file) else _read(file)
            if read is not None:
                return _in_memory(read, grid) / 255
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


def _map_files(stem: Path) -> list[Path]:
    return [_map_file(stem, 3), _map_file(stem, 2)]


def _volume(values: Tensor, affine: Tensor | np.ndarray | None, source: str | None) -> nibabel.Nifti1Image:
    image = nifti_on(values.numpy(), np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64), source)
    # With a slope set, nibabel writes the array as it is: other software then reads probabilities.
    image.header.set_slope_inter(1 / 255, 0)
    return image


class _Read(NamedTuple):
    """An 8-bit map as its file has it: ``[X, Y]`` of a picture, or ``[X, Y, Z]`` of NIfTI with its affine."""

    values: Tensor
    affine: np.ndarray | None = None


def _read(path: Path) -> _Read | None:
    """The map of a file; None if there is none or it cannot be read."""
    try:
        if path.suffix == ".png":
            with Image.open(path, formats=("PNG",)) as picture:
                return _Read(torch.from_numpy(np.asarray(picture.convert("L")).T.copy()))
        # Scaled values, so that a mask of zeros and ones drawn by hand is read as it is meant.
        image: Any = open_nifti(path)
        values = quantize(torch.from_numpy(image.get_fdata(dtype=np.float32)))
        return _Read(values.reshape((*values.shape, 1, 1)[:3]) if values.ndim < 3 else values, image.affine)
    except (OSError, ValueError, EOFError, zlib.error):
        return None


def _in_memory(read: _Read, grid: FileGrid | None, dims: int | None = None) -> Tensor:
    """Turn a map as the scan lies in memory; where the two do not fit, it is left as it is."""
    values = read.values
    if grid is None or read.affine is None:
        return values.squeeze() if dims == 2 else values
    if tuple(values.shape) != grid.shape or grid.is_as_in_memory(values.shape, read.affine):
        return values
    return torch.from_numpy(grid.to_memory(values.numpy()).copy())


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there when it is complete."""
    with temporary_file(path) as temporary:
        write(temporary)
        os.replace(temporary, path)
