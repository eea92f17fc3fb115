# SPDX-License-Identifier: Apache-2.0
"""Region maps: made once by a localizer, kept beside a record, read by every later run."""

from custom.regions.body import body_voxels
from custom.regions.coverage import cell_coverage
from custom.regions.dictionary import LocalizeRegiond
from custom.regions.record import RegionRecord
from custom.regions.store import RegionStore

__all__ = ["LocalizeRegiond", "RegionRecord", "RegionStore", "body_voxels", "cell_coverage"]
