# SPDX-License-Identifier: Apache-2.0
"""Prompts that give labels away."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from custom.prompts.words import content_keys


class LabelLeakWarning(UserWarning):
    """A prompt names a class of the data set's labels."""


def leaks(prompts: Iterable[str], labels: Sequence[str]) -> dict[str, list[str]]:
    """Return the prompts that name classes, each with those classes.

    A prompt names a class if it holds all words of the class's name, whatever their case, number, spelling and order;
    numbers do not count ("covid pneumonia" names "COVID-19"). A single class gives nothing away.
    """
    names = {label: _words(label) for label in dict.fromkeys(str(label) for label in labels)}
    if len(names) < 2:
        return {}
    found = {
        prompt: [label for label, words in names.items() if words and words <= content_keys(prompt)]
        for prompt in dict.fromkeys(prompts)
    }
    return {prompt: classes for prompt, classes in found.items() if classes}


def warn_of_leak(prompts: Iterable[str], labels: Sequence[str]) -> bool:
    """Warn of prompts that name a class of the labels, and explain what that does.

    Args:
        prompts: phrases of a run.
        labels: names of the classes; none, or one, cannot leak.

    Returns:
        Whether there is such a prompt; a :class:`LabelLeakWarning` was issued then.
    """
    found = leaks(prompts, labels)
    if not found:
        return False
    named = "; ".join(f"{prompt!r} names {', '.join(map(repr, classes))}" for prompt, classes in found.items())
    message = (
        f"Label leakage: {named} of the classes {', '.join(dict.fromkeys(map(str, labels)))}. The region of such a "
        "prompt depends on the class, and pretraining that hides it learns what the labels say: results with few "
        "labels, or of a linear probe, then look better than they are (prompts chosen scan by scan, each naming its "
        'own class, give the labels away outright). Name what all classes have in common ("brain tumor" instead of '
        '"glioma"; the anatomy, such as "lungs", where some scans are normal), or report that the labels were used.'
    )
    warnings.warn(message, LabelLeakWarning, stacklevel=2)
    return True


def _words(label: str) -> frozenset[str]:
    return frozenset(word for word in content_keys(label) if not word.isdigit())
