# SPDX-License-Identifier: Apache-2.0
"""Losses of masked image modelling."""

from custom.losses.hidden_cells import HiddenCellLoss, MIMTarget, denormalize, from_cells, to_cells

__all__ = ["HiddenCellLoss", "MIMTarget", "denormalize", "from_cells", "to_cells"]
