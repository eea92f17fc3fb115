# SPDX-License-Identifier: Apache-2.0
"""Slips of the fingers in a prompt: a word that nobody knows is read as the one known word beside it."""

from __future__ import annotations

import re
from functools import lru_cache

SHORTEST = 4  # letters of a word that is recognised behind a slip
ONE_SLIP = (
    5  # from this length any one slip; below, and in plurals, only exchanged and doubled letters ("lunge", "chess")
)
TWO_SLIPS = 9  # from this length two slips
_VOWELS = "aeiouy"
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@lru_cache(maxsize=4096)
def intended(word: str, known: frozenset[str]) -> str | None:
    """Return the known word that a mistyped one stands for.

    Letters exchanged with their neighbour, lost, doubled or added count as one slip each, and so does a letter typed
    for its neighbour on the keyboard or a vowel for a vowel; any other letter for another counts as two, because that
    is how words differ from each other ("tutor", "lesson"). The first letter must be right.

    Args:
        word: normalised, see :func:`custom.localizers.prompt.normalize`.
        known: words that it may stand for.

    Returns:
        The nearest known word; None if nothing is near, or two are equally near.
    """
    near: dict[str, int] = {}
    for candidate in known:
        slips = min(_slips(word, candidate), _slips(word, candidate + "s", plural=True))
        if slips <= 2:
            near[candidate] = slips
    best = [candidate for candidate, slips in near.items() if slips == min(near.values())]
    return best[0] if len(best) == 1 else None


def _slips(word: str, known: str, plural: bool = False) -> int:
    """Slips between two words; 3 if that is more than a word of this length may have."""
    far, allowed = 3, 2 if len(known) >= TWO_SLIPS else 1
    if len(known) < SHORTEST or word[0] != known[0] or abs(len(word) - len(known)) > allowed:
        return far
    if (plural or len(known) < ONE_SLIP) and sorted(word) != sorted(known) and _undoubled(word) != _undoubled(known):
        return far
    found = _distance(word, known)
    return found if found <= allowed else far


def _undoubled(word: str) -> str:
    return re.sub(r"(.)\1", r"\1", word)


def _distance(first: str, second: str) -> int:
    """Damerau-Levenshtein distance (optimal string alignment), with substitutions weighed by :func:`_substitution`."""
    rows = [list(range(len(second) + 1))]
    for i, letter in enumerate(first, start=1):
        row = [i]
        for j, other in enumerate(second, start=1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + _substitution(letter, other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _substitution(letter: str, other: str) -> int:
    if letter == other:
        return 0
    both_vowels = letter in _VOWELS and other in _VOWELS
    neighbours = any(letter + other in keys or other + letter in keys for keys in _KEYS)
    return 1 if both_vowels or neighbours else 2
