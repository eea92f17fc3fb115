# SPDX-License-Identifier: Apache-2.0
"""How a scan becomes what a network takes: the same steps in pretraining, tasks, evaluation, inference and bundles."""

from custom.preprocessing.fit import FitIntoBoxd

__all__ = ["FitIntoBoxd"]
