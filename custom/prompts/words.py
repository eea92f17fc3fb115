# SPDX-License-Identifier: Apache-2.0
"""Words as keys: equal for the spellings, numbers and cases of one word. Never shown to anyone."""

from __future__ import annotations

import re
import unicodedata

SIDES = ("left", "right")
_WORDS = "a an and at by for from in into is of on or the this to with within"
EMPTY = frozenset(_WORDS.split())  # they say nothing
_ENDING = re.compile(r"(ies|es|is|y|e|i|(?<!s)s)$")


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers of a text; accents, punctuation and underscores are dropped."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    return re.findall(r"[a-z0-9]+", plain)


def word_key(word: str) -> str:
    """Key of a lower-case word: "tumours" and "tumor" have one, so have "opacity" and "opacities"."""
    stem = _ENDING.sub("", word) if len(word) > 3 else word
    return re.sub(r"our$", "or", stem.replace("aem", "em").replace("oed", "ed"))


def content_keys(text: str) -> frozenset[str]:
    """Keys of the words of a phrase that say something, in whatever order."""
    return frozenset(word_key(word) for word in tokens(text) if word not in EMPTY)


def side_of(text: str) -> str | None:
    """``left`` or ``right``; None if neither, or both, are named."""
    named = set(tokens(text)) & set(SIDES)
    return named.pop() if len(named) == 1 else None


def other_side(text: str) -> str:
    """The phrase with left and right exchanged."""
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: swap[match[0]], text)
