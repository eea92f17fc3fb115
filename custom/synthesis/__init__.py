# SPDX-License-Identifier: Apache-2.0
"""Abnormalities synthesised into real scans, to learn to find abnormalities from scans that nobody annotated."""

from custom.synthesis.appearance import APPEARANCES
from custom.synthesis.dictionary import AnnotationTargetd, NetworkGridd, RandLesionsd, SearchAread
from custom.synthesis.lesion import LesionStatistics

__all__ = ["APPEARANCES", "AnnotationTargetd", "LesionStatistics", "NetworkGridd", "RandLesionsd", "SearchAread"]
