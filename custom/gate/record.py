# SPDX-License-Identifier: Apache-2.0
"""The gate's result as a file beside the region maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom.files import write_atomically
from custom.gate.verdict import DO_NOT_USE, USE, USE_WITH_CARE

FILE = "gate.json"
VERSION = 1
VERDICTS = (USE, USE_WITH_CARE, DO_NOT_USE)


@dataclass(frozen=True)
class PromptGate:
    """What was found for a prompt.

    - ``verdict``: one of :data:`VERDICTS`; ``reasons``: why, in words.
    - ``measures``: see :class:`custom.gate.measures.PromptMeasures`.
    - ``phrasings``: for each phrase ``text``, ``kind``, ``refused``, means of ``similarity``, ``coverage``, ``score``.
    """

    verdict: str
    reasons: Sequence[str]
    measures: Mapping[str, Any]
    phrasings: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class GateRecord:
    """The gate of a localizer on a data set.

    - ``localizer``: its ``describe()``; ``dataset``: where the scans lie; ``scans``: how many were looked at.
    - ``threshold``: probability from which a voxel was region; None: probabilities were compared.
    - ``prompts``: prompt -> what was found.
    - ``settings``: everything else that determines the result.
    """

    localizer: Mapping[str, Any]
    dataset: str
    scans: int
    threshold: float | None
    prompts: Mapping[str, PromptGate]
    settings: Mapping[str, Any]

    def verdict(self, prompt: str) -> str | None:
        """Verdict of a prompt; None if it was not looked at."""
        return self.prompts[prompt].verdict if prompt in self.prompts else None

    def made_like(self, other: GateRecord) -> bool:
        """Whether another gate would ask the same localizer the same on the same data."""
        return same_description(self._how(), other._how())

    def save(self, folder: str | Path) -> Path:
        """Write ``gate.json`` into a folder; OSError if it cannot be written."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"
        return write_atomically(Path(folder) / FILE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> GateRecord | None:
        """Read ``gate.json`` of a folder; None if there is none.

        Raises:
            ValueError: if the file is not one that :meth:`save` wrote.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            prompts = {prompt: PromptGate(**each) for prompt, each in content.pop("prompts").items()}
            if content.pop("version") != VERSION or any(each.verdict not in VERDICTS for each in prompts.values()):
                raise ValueError("another version")
            return cls(**content, prompts=prompts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a gate of this version ({error}). Delete it, or make it anew with gate.yaml."
            ) from error

    def _how(self) -> list[Any]:
        return [self.localizer, self.dataset, self.threshold, self.settings]


def same_description(first: Any, second: Any) -> bool:
    """Whether two descriptions are the same, one of which may have been read back: lists in place of tuples."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
