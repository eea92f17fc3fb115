# SPDX-License-Identifier: Apache-2.0
"""Does the prompt decide the map? Measured without labels, judged, kept beside the region maps."""

from custom.gate.measures import Answer, PromptMeasures, ScanAnswers, measure_prompt
from custom.gate.record import GateRecord, PromptGate
from custom.gate.similarity import region_similarity
from custom.gate.verdict import DO_NOT_USE, USE, USE_WITH_CARE, GateRules, judge

__all__ = [
    "DO_NOT_USE",
    "USE",
    "USE_WITH_CARE",
    "Answer",
    "GateRecord",
    "GateRules",
    "PromptGate",
    "PromptMeasures",
    "ScanAnswers",
    "judge",
    "measure_prompt",
    "region_similarity",
]
