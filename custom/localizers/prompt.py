# SPDX-License-Identifier: Apache-2.0
"""From free text to words that can be compared: case, plural, spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

FILLERS = """
a an and any all are as at both by can for from in inside into is it its of on one or part region area locate scan image
picture slice volume show showing shown see seen segment find the that there these this those to with within where which
some whole entire patient case visible side hemisphere please highlight outline me pixel belong medical radiology view
zone bilateral present
"""
STOP_WORDS = frozenset(FILLERS.split())
NEGATIONS = frozenset(("no", "not", "without", "absent", "exclude", "excluded", "excluding", "except", "outside"))
SIDES = {"left": "left", "right": "right"}
CONTRASTS = {
    "bright": "bright", "hyperintense": "bright", "hyperdense": "bright", "enhancing": "bright", "white": "bright",
    "enhanced": "bright", "dark": "dark", "hypointense": "dark", "hypodense": "dark", "black": "dark",
}  # fmt: skip
# British spellings and Latin diphthongs become American, in prompts and vocabulary alike.
SPELLINGS = (
    (r"our$", "or"),
    (r"oed", "ed"),
    (r"haem", "hem"),
    (r"aem", "em"),
    (r"grey", "gray"),
    (r"centre$", "center"),
)
PLURALS = (
    (r"ies$", "y"), (r"ices$", "ex"), (r"(thes|tas|ros|nos)es$", r"\1is"), (r"(s|x|z|ch|sh)es$", r"\1"),
    (r"([^sui])s$", r"\1"), (r"([^aeiou])i$", r"\1us"),
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """A prompt taken apart.

    - ``content``: the words that may name something, normalised.
    - ``side``: ``left``, ``right`` or None; None too where both are named.
    - ``contrast``: ``bright``, ``dark`` or None; None too where both are named.
    - ``modality``: of the scan, where a word tells it.
    - ``negated``: whether a word such as "without" occurs.
    - ``corrected``: mistyped words and what they were read as.
    """

    content: frozenset[str]
    side: str | None = None
    contrast: str | None = None
    modality: str | None = None
    negated: bool = False
    corrected: tuple[tuple[str, str], ...] = ()


def normalize_word(word: str) -> str:
    """Return a lower-case word in singular and American spelling."""
    for pattern, replacement in PLURALS:
        if len(word) > 3 and re.search(pattern, word):
            word = re.sub(pattern, replacement, word)
            break
    for pattern, replacement in SPELLINGS:
        word = re.sub(pattern, replacement, word)
    return word


def split(text: str) -> list[str]:
    """Split a phrase into lower-case words; accents and punctuation are dropped."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"\bx[\s-]*ray", "xray", plain)
    return re.findall(r"[a-z0-9]+", plain)


def normalize(text: str) -> list[str]:
    """Split a phrase into normalised words."""
    return [normalize_word(word) for word in split(text)]


def parse(
    prompt: str,
    aliases: Mapping[str, str],
    modalities: Mapping[str, str],
    spelled: Callable[[str], str] = normalize_word,
) -> Words:
    """Take a prompt apart.

    Args:
        prompt: free text.
        aliases: word -> the word that the vocabulary uses instead.
        modalities: word -> modality.
        spelled: word as it was typed -> normalised word that is meant; by default words are taken as they are.
    """
    typed = split(prompt)
    words = [spelled(word) for word in typed]
    content = {aliases.get(word, word) for word in words}
    return Words(
        content=frozenset(content - STOP_WORDS - NEGATIONS - set(SIDES) - set(CONTRASTS) - set(modalities)),
        side=_only(SIDES.get(word) for word in words),
        contrast=_only(CONTRASTS.get(word) for word in words),
        modality=_only(modalities.get(word) for word in words),
        negated=not NEGATIONS.isdisjoint(words),
        corrected=tuple((word, read) for word, read in zip(typed, words, strict=True) if normalize_word(word) != read),
    )


def _only(found: Iterable[str | None]) -> str | None:
    named = {each for each in found if each is not None}
    return named.pop() if len(named) == 1 else None
