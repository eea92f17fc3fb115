# SPDX-License-Identifier: Apache-2.0
"""What a run learns with, epoch by epoch: kept in its checkpoints, compared when it is resumed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)

MAY_DIFFER = ("batch_size", "max_epochs")  # they change how long and in which steps is learnt, not what
_PLACES = ("dataset", "encoder")  # paths: data and weights may be moved, their own digests are compared


class RunSettings:
    """The settings that decide what a run learns, as an object that a checkpoint keeps.

    Args:
        values: name -> setting, plain values (others are kept as their text): the data, how it is prepared, the
            network, what is hidden, the loss, the optimizer, the seed, ...
        may_change: go on although settings differ from those that the run began with.

    - ``history``: a mapping with ``from_epoch`` (counted from 1) and ``settings`` for each stretch of the run with
      settings of its own; the last one is in force.
    """

    def __init__(self, values: Mapping[str, Any], may_change: bool = False) -> None:
        self.values: dict[str, Any] = json.loads(json.dumps(dict(values), default=_plain))
        self.may_change = may_change
        self.history: list[dict[str, Any]] = [{"from_epoch": 1, "settings": self.values}]

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"history": self.history}

    def check(self, checkpoint: Path, recorded: Mapping[str, Any] | None, seed: int | None = None) -> dict[str, str]:
        """Compare with what a checkpoint was learnt with.

        Args:
            checkpoint: its file, for messages.
            recorded: :meth:`state_dict` of then; None: it was written before settings were kept.
            seed: of then, where nothing else is known.

        Returns:
            The settings that differ, and how, in words.

        Raises:
            ValueError: if some of them change what is learnt and ``may_change`` is false; it lists them.
        """
        before = _before(checkpoint, recorded, seed)
        known = before.keys() & self.values.keys() - set(_PLACES)
        differing = {
            name: f"{name} was {before[name]!r}, is {self.values[name]!r}"
            for name in sorted(known)
            if before[name] != self.values[name]
        }
        refused = [words for name, words in differing.items() if name not in MAY_DIFFER]
        if refused and not self.may_change:
            raise ValueError(
                f"{checkpoint} was learnt with other settings: {'; '.join(refused)}. Give those of before, or begin "
                "another run: with another --output_dir, or with --resume false. To go on all the same: "
                "--resume_changed true (the run's record then says which epochs had which settings)."
            )
        return differing

    def resume(self, checkpoint: Path, epoch: int, recorded: Mapping[str, Any] | None, seed: int | None = None) -> None:
        """Compare, say what differs, and take over the checkpoint's history.

        Args:
            checkpoint, recorded, seed: see :meth:`check`.
            epoch: after which it was written.

        Raises:
            ValueError: as :meth:`check`.
        """
        differing = self.check(checkpoint, recorded, seed)
        if recorded is None:
            known = "its seed" if seed is not None else "nothing"
            logger.warning(
                "%s was written before settings were kept in checkpoints: %s can be compared.", checkpoint, known
            )
        if differing:
            logger.warning("Resumed after epoch %d with other settings: %s.", epoch, "; ".join(differing.values()))
        history = _history(checkpoint, recorded)
        if set(differing) - {"max_epochs"}:  # a run that only goes on for longer has no other settings
            earlier = history or [{"from_epoch": 1, "settings": _before(checkpoint, recorded, seed)}]
            self.history = [*earlier, {"from_epoch": epoch + 1, "settings": self.values}]
        elif history:
            self.history = [*history[:-1], {**history[-1], "settings": self.values}]

    def as_info(self) -> dict[str, Any]:
        """Return ``settings_history`` for a run's record; empty if the settings never changed."""
        return {"settings_history": self.history} if len(self.history) > 1 else {}


def _before(checkpoint: Path, recorded: Mapping[str, Any] | None, seed: int | None) -> Mapping[str, Any]:
    history = _history(checkpoint, recorded)
    if history:
        return history[-1]["settings"]
    return {} if seed is None else {"seed": seed}


def _history(checkpoint: Path, recorded: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    try:
        found = [] if recorded is None else [dict(each) for each in recorded["history"]]
        if not all(isinstance(each["settings"], Mapping) and int(each["from_epoch"]) > 0 for each in found):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{checkpoint}: what it says of its settings cannot be read. Use an earlier one.") from None
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else str(value)
