# SPDX-License-Identifier: Apache-2.0
"""What a run is to localize, from the command line or from the scans themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def named_prompts(prompt: str | Sequence[str] | None, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the phrases of a run: the user's, or those that come with the scans (phantoms name what they show).

    Args:
        prompt: one phrase, or a list of phrases; a tuple is one phrase, because the command line turns
            ``--prompt "tumor, edema"`` into one and ``--prompt "['tumor', 'edema']"`` into a list; None: ask the scans.
        items: datalist entries, possibly with ``prompt``.

    Returns:
        Phrases, without repetition; empty if nobody named any.
    """
    if isinstance(prompt, tuple):
        prompt = ", ".join(str(word) for word in prompt)
    given = [prompt] if isinstance(prompt, str) else [str(phrase) for phrase in prompt or []]
    return list(dict.fromkeys(given)) or sorted({str(item["prompt"]) for item in items if item.get("prompt")})
