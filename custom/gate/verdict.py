# SPDX-License-Identifier: Apache-2.0
"""From figures to a verdict: may masking follow this prompt?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from custom.gate.measures import PromptMeasures

USE = "use"
USE_WITH_CARE = "use with care"
DO_NOT_USE = "do not use"


@dataclass(frozen=True)
class GateRules:
    """Limits of the verdict. They are judgements, not constants of nature: change them by ``rules`` of
    ``localize.yaml``.

    Not to be used, because the map would mask the same (or nothing) whatever the prompt:

    - ``sensitivity`` or ``heeding`` below ``least_sensitivity`` or ``least_heeding``;
      A network with random weights may reach 0.7: phrases that mean the same share words, and so some of its map;
    - ``presence`` below ``least_presence`` where ``heeding`` is not good either: neither the words nor what the scan
      shows decide;
    - anything found on fewer than ``least_found`` of the scans, or more than ``most_coverage`` of them covered.

    With care, because the map changes with wording, or hardly with anything but the body's outline: below the
    ``good_...`` limits, outside ``usual_coverage``, or nearer than ``good_blind_distance`` to a blind map. Likewise
    where it was not measured whether the words decide the map, or anything is found on fewer than ``good_scans`` scans.
    """

    least_sensitivity: float = 0.25
    least_heeding: float = 0.75
    least_presence: float = 0.6
    least_found: float = 0.2
    most_coverage: float = 0.9
    good_sensitivity: float = 0.6
    good_heeding: float = 0.9
    good_stability: float = 0.6
    good_presence: float = 0.8
    good_found: float = 0.8
    good_scans: int = 2
    good_blind_distance: float = 0.2
    usual_coverage: tuple[float, float] = (0.002, 0.6)


def judge(measures: PromptMeasures, rules: GateRules | None = None) -> tuple[str, list[str]]:
    """Return the verdict and its reasons, the gravest first.

    Never :data:`USE` on figures that nobody has: without phrases that mean something else, or the same, it is unknown
    whether the words decide the map.

    Args:
        measures: figures of a prompt; None and NaN are unknown.
        rules: limits; None: the usual ones.
    """
    rules = rules or GateRules()
    grave = _grave(measures, rules)
    if grave:
        return DO_NOT_USE, grave
    doubts = _unmeasured(measures, rules) + _doubts(measures, rules)
    return (USE_WITH_CARE, doubts) if doubts else (USE, [_praise(measures)])


def _grave(measures: PromptMeasures, rules: GateRules) -> list[str]:
    checks = [
        (
            measures.found < rules.least_found,
            f"the prompt finds something on only {_percent(measures.found)} of the scans",
        ),
        (
            _below(measures.sensitivity, rules.least_sensitivity),
            "other organs, absent concepts and nonsense give nearly the same map as the prompt "
            f"(sensitivity {_figure(measures.sensitivity)})",
        ),
        (
            _below(measures.heeding, rules.least_heeding),
            "phrases that mean the same are hardly nearer to the prompt's map than foreign ones "
            f"(heeding {_figure(measures.heeding)}; 0.5 = the words do not matter)",
        ),
        (
            _below(measures.presence, rules.least_presence) and _below(measures.heeding, rules.good_heeding),
            "neither the words nor what the scans show decide the map: not every phrase that means the same beats the "
            f"foreign ones (heeding {_figure(measures.heeding)}), and scans of other body parts score as high "
            f"(presence {_figure(measures.presence)})",
        ),
        (
            measures.coverage is not None and measures.coverage > rules.most_coverage,
            f"the region covers {_percent(measures.coverage)} of the picture: there is no background left",
        ),
    ]
    return [reason for applies, reason in checks if applies]


def _unmeasured(measures: PromptMeasures, rules: GateRules) -> list[str]:
    on = round(measures.found * measures.scans) if _is_known(measures.found) else 0
    checks = [
        (
            not _is_known(measures.sensitivity),
            "not measured whether foreign phrases give another map: no other organ, absent concept or nonsense was "
            "compared",
        ),
        (
            not _is_known(measures.heeding) or not _is_known(measures.stability),
            "not measured whether phrases that mean the same give the same map: too few phrases were compared",
        ),
        (
            on < rules.good_scans,
            f"the figures are those of {on} scan{'s' if on != 1 else ''}: too few to say anything of the others",
        ),
    ]
    return [reason for applies, reason in checks if applies]


def _doubts(measures: PromptMeasures, rules: GateRules) -> list[str]:
    low, high = rules.usual_coverage
    coverage = measures.coverage
    nearest = min(filter(_is_known, measures.blind_distance.values()), default=1.0)
    checks = [
        (
            _below(measures.sensitivity, rules.good_sensitivity),
            f"foreign phrases give partly the same map (sensitivity {_figure(measures.sensitivity)})",
        ),
        (
            _below(measures.heeding, rules.good_heeding),
            f"not every phrase that means the same beats the foreign ones (heeding {_figure(measures.heeding)})",
        ),
        (
            _below(measures.stability, rules.good_stability),
            f"synonyms, spelling or word order change the map (stability {_figure(measures.stability)})",
        ),
        (
            _below(measures.presence, rules.good_presence),
            "scans of other body parts score about as high as these: it is not noticed when the target is absent "
            f"(presence {_figure(measures.presence)})",
        ),
        (measures.found < rules.good_found, f"nothing is found on {_percent(1 - measures.found)} of the scans"),
        (
            coverage is not None and not low <= coverage <= high,
            f"the region covers {_percent(coverage)} of the picture on average",
        ),
        (
            nearest < rules.good_blind_distance,
            f"the map is nearly one that sees no prompt (distance {_figure(nearest)})",
        ),
    ]
    return [reason for applies, reason in checks if applies]


def _praise(measures: PromptMeasures) -> str:
    return (
        f"the map follows the prompt: sensitivity {_figure(measures.sensitivity)}, stability "
        f"{_figure(measures.stability)}, presence {_figure(measures.presence)}"
    )


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _below(value: float | None, limit: float) -> bool:
    return _is_known(value) and value < limit


def _figure(value: float | None) -> str:
    return f"{value:.2f}" if _is_known(value) else "unknown"


def _percent(share: float | None) -> str:
    return f"{100 * share:.1f} %" if _is_known(share) else "an unknown share"
