# SPDX-License-Identifier: Apache-2.0
"""Which modality a scan is, where neither user nor prompt says so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from custom.localizers.operators.scan import is_hounsfield, unit


def guess_modality(values: np.ndarray, among: Sequence[str]) -> str:
    """Guess from dimensions, value range and border.

    Hounsfield units are CT. Volumes are no radiographs. Pictures with air all around the body are slices, others
    radiographs. Slices of MRI and CT without Hounsfield units look alike: the first of ``among`` is taken.

    Args:
        values: ``[*spatial]``.
        among: modalities in question, the usual one first.
    """
    if len(among) == 1:
        return among[0]
    if "ct" in among and is_hounsfield(values):
        return "ct"
    slices = [modality for modality in among if modality != "xray"]
    if "xray" in among and values.ndim == 2 and not _air_around(values):
        return "xray"
    return slices[0]


def _air_around(values: np.ndarray) -> bool:
    """Whether most of the border is dark, and the lower edge too: on radiographs the body reaches it."""
    dark = unit(values) < 0.1
    border = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    return bool(border.mean() > 0.6 and dark[:, -1].mean() > 0.5)
