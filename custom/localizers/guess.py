# SPDX-License-Identifier: Apache-2.0
"""Which modality a scan is, where neither user nor prompt says so."""

from __future__ import annotations

import numpy as np

from custom.localizers.operators.scan import is_hounsfield, unit


def guess_modality(values: np.ndarray) -> str:
    """Guess from dimensions, value range and border.

    Volumes are CT in Hounsfield units or MRI. Pictures with air all around the body are slices (MRI; CT slices
    without Hounsfield units cannot be told apart: say "CT" in the prompt), others radiographs.
    """
    if is_hounsfield(values):
        return "ct"
    if values.ndim == 3:
        return "mri"
    scaled = unit(values)
    border = np.concatenate([scaled[0], scaled[-1], scaled[:, 0], scaled[:, -1]])
    return "mri" if (border < 0.1).mean() > 0.6 else "xray"
