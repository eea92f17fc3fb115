# SPDX-License-Identifier: Apache-2.0
"""Named image operators, the verbs of the vocabulary.

Two kinds. Sources find something in the scan: ``source(scan, **parameters)``; refiners change what was found so far:
``refiner(region, scan, **parameters)``. All maps have the scan's shape, float32 in [0, 1].
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from custom.localizers.operators.body import body
from custom.localizers.operators.brain import brain, head_interior
from custom.localizers.operators.hippocampus import hippocampus
from custom.localizers.operators.learned import learned
from custom.localizers.operators.lesion import lesion
from custom.localizers.operators.lungs import lungs
from custom.localizers.operators.nodule import nodule, opacity
from custom.localizers.operators.refine import at_least, complement, grow, side
from custom.localizers.operators.scan import Map, Scan
from custom.localizers.operators.symmetry import asymmetry

SOURCES: Mapping[str, Callable[..., Map]] = MappingProxyType(
    {
        "asymmetry": asymmetry,
        "body": body,
        "brain": brain,
        "head_interior": head_interior,
        "hippocampus": hippocampus,
        "learned": learned,
        "lesion": lesion,
        "lungs": lungs,
        "nodule": nodule,
        "opacity": opacity,
    }
)
REFINERS: Mapping[str, Callable[..., Map]] = MappingProxyType(
    {"at_least": at_least, "complement": complement, "grow": grow, "side": side}
)
OPERATORS: Mapping[str, Callable[..., Map]] = MappingProxyType({**SOURCES, **REFINERS})

__all__ = ["OPERATORS", "REFINERS", "SOURCES", "Map", "Scan"]
