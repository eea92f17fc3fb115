# SPDX-License-Identifier: Apache-2.0
"""Gathering neighbours through a table, in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Enough rows for efficient matrix products, and little enough gathered at once to stay in a CPU's cache of some
# megabytes; on a GPU, few launches count for more.
CHUNK_ROWS = 1024
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}


def with_absent(values: Tensor, fill: float = 0.0) -> Tensor:
    """Append to ``[N, C]`` the row that stands for positions that do not exist."""
    padded = values.new_empty(len(values) + 1, values.shape[1])
    padded[:-1] = values
    padded[-1] = fill
    return padded


def gather_chunks(padded: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Gather the rows that a table names.

    Args:
        padded: ``[N + 1, C]``, see :func:`with_absent`.
        table: ``[n, taps]`` row numbers.

    Yields:
        A slice of the table's rows and what they name, ``[rows, taps * C]``; it is overwritten by the next chunk.
    """
    taps, channels = table.shape[1], padded.shape[1]
    limit = CHUNK_BYTES.get(padded.device.type, CHUNK_BYTES["cuda"])
    size = max(CHUNK_ROWS, limit // (taps * channels * padded.element_size()))
    buffer = padded.new_empty(min(size, len(table)) * taps, channels)
    for start in range(0, len(table), size):
        part = table[start : start + size]
        gathered = buffer[: part.numel()]
        torch.index_select(padded, 0, part.flatten(), out=gathered)
        yield slice(start, start + len(part)), gathered.reshape(len(part), taps * channels)
