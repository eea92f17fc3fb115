# SPDX-License-Identifier: Apache-2.0
"""Many ways to ask for one thing, and ways to ask for something else: what a localizer should and should not obey."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from custom.prompts.library import PromptLibrary
from custom.prompts.words import EMPTY, SIDES, other_side, side_of, tokens, word_key

KINDS = (
    "target", "synonym", "paraphrase", "misspelling", "word order", "other organ", "absent concept", "nonsense",
)  # fmt: skip

TEMPLATES = (
    "the region of the {}", "find the {}", "a medical scan showing the {}", "segment the {}", "outline the {}",
    "{} in this image", "please locate the {} in the scan", "the {} of this patient", "an image of the {}",
    "highlight the area of the {}", "show me the {}", "the visible {}", "pixels that belong to the {}",
    "a radiology image with the {} in view",
)  # fmt: skip
ABSENT = (
    "bicycle", "wooden chair", "traffic light", "palm tree", "sailing boat", "coffee cup", "zebra", "guitar",
    "mountain lake", "red sports car", "umbrella", "pizza", "lighthouse", "tennis racket",
)  # fmt: skip
SHORTEST_MISSPELT = 4  # letters: a slip in a shorter word makes another word
_LETTERS = "bcdfghjklmnpqrstvwxz"
_UNSPELT = EMPTY | set(SIDES)


@dataclass(frozen=True)
class Phrasing:
    """A phrase and what it is to the target, one of :data:`KINDS`."""

    text: str
    kind: str


def phrasings(prompt: str, library: PromptLibrary, per_kind: int = 3, seed: int = 0) -> list[Phrasing]:
    """Return ways to ask for what a prompt names, and for something else.

    Args:
        prompt: the target; one that the library does not know has no synonyms, all else is generated.
        library: knows synonyms and what belongs to other parts of the body.
        per_kind: at most so many phrasings of each kind; there may be fewer (a single word has one order).
        seed: of the draws: which letters are misspelt, which absent concepts are named, which nonsense.

    Returns:
        Phrasings without repetition, the target first, then in the order of :data:`KINDS`. A side stays in synonyms,
        paraphrases, misspellings and word orders; the other side is the first "other organ".

    Raises:
        ValueError: if the prompt is empty.
    """
    prompt = " ".join(prompt.split())
    if not tokens(prompt):
        raise ValueError(f'A prompt must name something, for example "brain tumor"; received {prompt!r}.')
    drawn = random.Random(f"{seed} {prompt}")
    bare = re.sub(r"^(the|a|an)\s+", "", prompt, flags=re.IGNORECASE)
    other = library.elsewhere(prompt)
    choices: dict[str, Iterable[str]] = {
        "target": [prompt],
        "synonym": library.synonyms(prompt),
        "paraphrase": (template.format(bare) for template in TEMPLATES),
        "misspelling": _misspellings(prompt, drawn),
        "word order": _orders(bare),
        "other organ": [other_side(prompt), *other] if side_of(prompt) else other,
        "absent concept": drawn.sample(ABSENT, len(ABSENT)),
        "nonsense": _nonsense(drawn),
    }
    return list(_limited(choices, per_kind))


def _limited(choices: dict[str, Iterable[str]], per_kind: int) -> Iterator[Phrasing]:
    """The first ones of each kind that no earlier kind has."""
    seen: set[str] = set()
    for kind, texts in choices.items():
        left = per_kind
        for text in texts:
            if left == 0:
                break
            if text.lower() not in seen:
                seen.add(text.lower())
                left -= 1
                yield Phrasing(text, kind)


def _misspellings(prompt: str, drawn: random.Random) -> list[str]:
    """All single slips of the fingers in words that say something, in a drawn order; the first letter stays."""
    found: list[str] = []
    for match in re.finditer(r"[A-Za-z]+", prompt):
        word = match[0]
        if len(word) < SHORTEST_MISSPELT or word.lower() in _UNSPELT:
            continue
        for slip in _slips(word):
            if word_key(slip.lower()) != word_key(word.lower()):  # "lung" for "lungs" is no misspelling
                found.append(prompt[: match.start()] + slip + prompt[match.end() :])
    found = list(dict.fromkeys(found))
    return drawn.sample(found, len(found))


def _slips(word: str) -> Iterator[str]:
    """A word with two neighbours exchanged, a letter lost, or a letter twice."""
    for at in range(1, len(word)):
        if at + 1 < len(word) and word[at] != word[at + 1]:
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        yield word[:at] + word[at + 1 :]
        yield word[: at + 1] + word[at:]


def _orders(prompt: str) -> list[str]:
    """The same words in other orders; none for a single word."""
    words = re.findall(r"[^\s,()]+", prompt)
    if len(words) < 2:
        return []
    head, rest = words[-1], " ".join(words[:-1])
    side, last = side_of(prompt), words[-1]
    if side is not None and words[0].lower() == side:
        thing = " ".join(words[1:])
        texts = [f"{thing} {words[0]}", f"{thing}, {words[0]}", f"{thing} on the {words[0]}", f"{thing} ({words[0]})",
                 f"{thing} of the {words[0]} side", f"{words[0]}, {thing}"]  # fmt: skip
    elif not any(word.lower() in EMPTY for word in words):
        texts = [f"{head} of the {rest}", f"{head}, {rest}", f"{head} {rest}", f"{head} in the {rest}",
                 f"{rest}, {head}", f"{head} ({rest})", f"{rest}: {head}"]  # fmt: skip
    else:  # a sentence: only whole words change their places
        texts = []
    rotated = [" ".join(words[at:] + words[:at]) for at in range(1, len(words))]
    return [text for text in dict.fromkeys([*texts, " ".join([last, *words[:-1]]), *rotated]) if text != prompt]


def _nonsense(drawn: random.Random) -> Iterator[str]:
    """Strings that mean nothing: letters without vowels, keys beside one another, numbers."""
    yield from ("qwertz uiopl", "xx xx xx")
    while True:
        words = ("".join(drawn.choices(_LETTERS, k=drawn.randint(5, 9))) for _ in range(drawn.randint(1, 3)))
        yield " ".join(words)
