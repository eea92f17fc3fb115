# SPDX-License-Identifier: Apache-2.0
"""What a task's images must be like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from custom.networks import MaskedImageModel


def check_images(
    spatial_dims: int,
    channels: int,
    image_size: Sequence[int],
    encoder: Mapping[str, Any],
    patch_size: Sequence[int] | None = None,
) -> None:
    """Refuse a size or an encoder that does not fit the scans, and say what to do.

    Args:
        spatial_dims: 2 or 3.
        channels: of the images.
        image_size: the network's input size, for whole scans.
        encoder: facts of the pretrained encoder, empty for training from scratch.
        patch_size: the same for patches; None: whole scans.

    Raises:
        ValueError: if they do not fit.
    """
    name, size = ("image_size", image_size) if patch_size is None else ("patch_size", patch_size)
    if isinstance(size, str) or not isinstance(size, Sequence):
        raise ValueError(f'{name} {size!r} is no list of numbers. Set --{name} "{[_example(size)] * spatial_dims}".')
    if len(size) != spatial_dims:
        raise ValueError(
            f"{name} {list(size)} has {len(size)} numbers for {spatial_dims}D scans. Set --{name} "
            f'"{[64] * spatial_dims}", and use an encoder that was pretrained on {spatial_dims}D scans.'
        )
    spec = encoder.get("encoder")
    if not spec:
        return
    expected = (spec["spatial_dims"], spec.get("in_channels", 1))
    if expected != (spatial_dims, channels):
        raise ValueError(
            f"The encoder takes {expected[0]}D images with {expected[1]} channels; the scans are {spatial_dims}D with "
            f"{channels}. Use an encoder pretrained on such scans, or set --channels {expected[1]}."
        )


def check_cells(image_size: Sequence[int], network: MaskedImageModel) -> None:
    """Refuse an input size that the cells or the encoder's stride do not divide, before any scan is read.

    Raises:
        ValueError: with a size that fits.
    """
    sides, divisor = tuple(image_size), network.size_divisor
    if any(side < factor or side % factor for side, factor in zip(sides, divisor, strict=True)):
        fitting = [max(1, round(side / factor)) * factor for side, factor in zip(sides, divisor, strict=True)]
        raise ValueError(
            f"Image sides {sides} must be divisible by {divisor} (cells of {network.cell_size} voxels, encoder stride "
            f'{network.encoder.strides[-1]}). Set --image_size "{fitting}", or another --cell_size or --backbone.'
        )


def _example(size: Any) -> int:
    return size if isinstance(size, int) and size > 0 else 64
