# SPDX-License-Identifier: Apache-2.0
"""Pretraining listens to the gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from custom.gate import DO_NOT_USE, USE, GateRecord
from custom.gate.record import same_description
from custom.masking import MaskStrategy
from custom.masking.region import RegionMasking
from custom.regions import RegionStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeededStrategy:
    """The strategy of a run after the gate was heard.

    - ``strategy``: what masks.
    - ``verdicts``: prompt -> verdict, as far as there is one.
    - ``replaced``: whether the matched random control took the strategy's place.
    """

    strategy: MaskStrategy
    verdicts: dict[str, str]
    replaced: bool

    def as_info(self) -> dict[str, Any]:
        """Return what the encoder's record says of it."""
        return {"verdicts": self.verdicts, "masked_at_random_instead": self.replaced}


def heed_gate(
    strategy: MaskStrategy,
    store: RegionStore,
    prompts: Sequence[str],
    heed: bool = True,
    how_to: str = "",
    scan_ids: Sequence[str] = (),
) -> HeededStrategy:
    """Replace region masking by its matched random control where the gate found that a prompt is not heeded.

    Args:
        strategy: the strategy that was asked for; one that needs no region is left as it is.
        store: the region maps, with ``gate.json`` beside them.
        prompts: the prompts whose maps decide the masks.
        heed: False: say what the gate found, but mask as asked.
        how_to: what to run where there is no gate, for the log.
        scan_ids: of the run; a gate of another localizer than their maps were made by says nothing about them.

    Returns:
        The strategy to use, and what was found.

    Raises:
        ValueError: if ``gate.json`` is broken, or the strategy has no random control.
    """
    if not strategy.needs_region:
        return HeededStrategy(strategy, {}, False)
    record = GateRecord.load(store.root)
    if record is not None and _is_of_another(record, store, prompts, scan_ids):
        logger.warning("The gate in %s is of another localizer than the maps beside it: not heeded.", store.root)
        record = None
    verdicts = {prompt: record.verdict(prompt) for prompt in prompts} if record else {}
    known = {prompt: verdict for prompt, verdict in verdicts.items() if verdict is not None}
    for prompt in prompts:
        _report(prompt, record, known.get(prompt), how_to)
    if not heed or DO_NOT_USE not in known.values():
        return HeededStrategy(strategy, known, False)
    if not isinstance(strategy, RegionMasking):
        raise ValueError(
            f"The gate in {store.root} says not to mask by this prompt, and {type(strategy).__name__} has no random "
            "control of its own: choose --masking random, another prompt or localizer, or --heed_gate false."
        )
    logger.warning(
        "Masking at random instead, with as many hidden cells (region_matched_random): the gate in %s says not to use "
        "the maps. Choose another prompt or localizer; --heed_gate false masks by them all the same.",
        store.root,
    )
    return HeededStrategy(strategy.matched_random(), known, True)


def _is_of_another(record: GateRecord, store: RegionStore, prompts: Sequence[str], scan_ids: Sequence[str]) -> bool:
    """Whether the first map that has a record was made by another localizer."""
    for scan_id in scan_ids:
        for prompt in prompts:
            made = store.record(scan_id, prompt)
            if made is not None:
                return not same_description(made.localizer, record.localizer)
    return False


def _report(prompt: str, record: GateRecord | None, verdict: str | None, how_to: str) -> None:
    if record is None or verdict is None:
        logger.info("No gate has looked at the prompt %r: nobody knows whether it decides the maps. %s", prompt, how_to)
        return
    level = logging.INFO if verdict == USE else logging.WARNING
    logger.log(level, "Gate, prompt %r: %s (%s).", prompt, verdict, "; ".join(record.prompts[prompt].reasons))
