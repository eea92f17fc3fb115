# SPDX-License-Identifier: Apache-2.0
"""Losses of masked image modelling, and of networks that are taught to find lesions."""

from custom.losses.hidden_cells import HiddenCellLoss, MIMTarget, denormalize, from_cells, to_cells
from custom.losses.lesions import LesionLoss, LesionTarget

__all__ = ["HiddenCellLoss", "LesionLoss", "LesionTarget", "MIMTarget", "denormalize", "from_cells", "to_cells"]
