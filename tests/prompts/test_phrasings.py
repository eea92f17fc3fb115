# SPDX-License-Identifier: Apache-2.0
"""Phrasings of a prompt: what each kind holds, and that they are always the same."""

from __future__ import annotations

import pytest

from custom.prompts import KINDS, PromptLibrary, phrasings

PROMPTS = [
    "brain tumor",
    "left lung",
    "lungs",
    "lung nodule",
    "right kidney",
    "purple frog tissue",
    "the heart on X-ray",
]


@pytest.fixture(scope="module")
def library(configs) -> PromptLibrary:
    return PromptLibrary(configs / "prompts")


def of_kind(library, prompt: str, kind: str, per_kind: int = 12) -> list[str]:
    return [each.text for each in phrasings(prompt, library, per_kind) if each.kind == kind]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_target_first_kinds_in_order_no_repetition(library, prompt):
    found = phrasings(prompt, library, per_kind=12)
    assert (found[0].text, found[0].kind) == (prompt, "target")
    ranks = [KINDS.index(each.kind) for each in found]
    assert ranks == sorted(ranks)
    assert len({each.text.lower() for each in found}) == len(found)
    assert len(found) >= 50
    assert all(sum(each.kind == kind for each in phrasings(prompt, library)) <= 3 for kind in KINDS)


def test_the_same_for_a_seed_and_other_slips_for_another(library):
    assert phrasings("brain tumor", library, seed=3) == phrasings("brain tumor", library, seed=3)
    assert phrasings("brain tumor", library, seed=3) != phrasings("brain tumor", library, seed=4)


def test_synonyms_come_from_the_library_and_unknown_prompts_have_none(library):
    assert of_kind(library, "brain tumor", "synonym")[:2] == ["brain mass", "cerebral tumor"]
    assert "brain tumor" in of_kind(library, "Intracranial masses", "synonym")
    assert "lungs" in of_kind(library, "lungs on x-ray", "synonym")
    assert of_kind(library, "purple frog tissue", "synonym") == []


@pytest.mark.parametrize("prompt", ["left lung", "left kidney", "left prostate gland"])
def test_a_side_stays_and_the_other_side_is_another_organ(library, prompt):
    for kind in ("synonym", "paraphrase", "misspelling", "word order"):
        found = of_kind(library, prompt, kind)
        assert found, kind
        assert all("left" in text and "right" not in text for text in found)
    assert of_kind(library, prompt, "other organ")[0] == prompt.replace("left", "right")


def test_misspellings_are_one_slip_away_and_no_other_number(library):
    for text in of_kind(library, "lungs", "misspelling"):
        assert text not in ("lung", "lungs")
        assert sorted(set(text)) in (sorted("lungs"), *(sorted(set("lungs") - {letter}) for letter in "lungs"))
    assert all(
        text.startswith("brain ") or text.endswith(" tumor") for text in of_kind(library, "brain tumor", "misspelling")
    )


def test_other_orders_hold_the_same_words(library):
    for text in of_kind(library, "brain tumor", "word order"):
        assert {"brain", "tumor"} <= set(
            text.replace(",", " ").replace("(", " ").replace(")", " ").replace(":", " ").split()
        )
    assert of_kind(library, "lungs", "word order") == []


def test_other_organs_share_no_word_and_lie_elsewhere(library):
    found = of_kind(library, "brain tumor", "other organ")
    assert "lung nodule" in found
    assert not any("tumor" in text or "brain" in text or text == "stroke" for text in found)
    chest = of_kind(library, "lung nodule", "other organ")
    assert "heart" not in chest, "a chest CT shows it"
    assert "vertebra" not in chest, "likewise"
    assert "brain tumor" in chest


def test_articles_are_not_doubled_and_empty_prompts_are_refused(library):
    assert not any("the the" in each.text for each in phrasings("the brain tumor", library, 12))
    for empty in ("", "  ", "?!"):
        with pytest.raises(ValueError, match="must name something"):
            phrasings(empty, library)
