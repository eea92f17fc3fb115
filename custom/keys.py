# SPDX-License-Identifier: Apache-2.0
"""Names of the entries that the transforms of this project add to MONAI's data dictionaries."""

from __future__ import annotations

from enum import StrEnum


class MIMKeys(StrEnum):
    """Dictionary keys, beside MONAI's own :class:`monai.utils.CommonKeys`.

    - ``IMAGE``: the scan, ``[C, *spatial]``.
    - ``REGION``: probability that a voxel belongs to what the prompt names, ``[P, *spatial]`` in [0, 1].
    - ``VISIBLE``: cells that the network may see, boolean ``[1, *grid]``; True means visible, everywhere.
    - ``CONTENT``: cells that show anything but background, boolean ``[1, *grid]``; there if empty cells are left out.
    - ``MASK_INFO``: realised ratios of the drawn mask.
    - ``PROMPTS``: phrases to localize in this scan, in place of those of the run; a list.
    - ``SCAN_ID``: name of the scan, unique within its dataset.
    """

    IMAGE = "image"
    REGION = "region"
    VISIBLE = "visible"
    CONTENT = "content"
    MASK_INFO = "mask_info"
    PROMPTS = "prompts"
    SCAN_ID = "scan_id"
