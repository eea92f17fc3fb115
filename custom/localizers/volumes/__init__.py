# SPDX-License-Identifier: Apache-2.0
"""Volumes by way of their slices: models of pictures applied to each, and masks followed from one to the next."""

from custom.localizers.volumes.propagation import Propagation
from custom.localizers.volumes.sam2_propagation import Sam2Propagation
from custom.localizers.volumes.slices import SliceView, voxel_sizes
from custom.localizers.volumes.slicewise import Slicewise, SlicewiseRefiner

__all__ = ["Propagation", "Sam2Propagation", "SliceView", "Slicewise", "SlicewiseRefiner", "voxel_sizes"]
