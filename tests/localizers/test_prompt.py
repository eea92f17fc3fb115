# SPDX-License-Identifier: Apache-2.0
"""Free text to concept: case, number, order, spelling, modifiers, and what is not known."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from custom.localizers import ConceptLocalizer, UnknownPromptError, Vocabulary
from custom.localizers.prompt import normalize


@pytest.fixture(scope="module")
def vocabulary_file(configs: Path) -> Path:
    return configs / "localizers" / "vocabulary.yaml"


@pytest.mark.parametrize(
    ("prompt", "concept", "side", "contrast", "modality"),
    [
        ("brain tumor", "brain tumor", None, None, None),
        ("Brain TUMOURS", "brain tumor", None, None, None),
        ("tumours in the brain", "brain tumor", None, None, None),
        ("MRI showing a lesion", "brain tumor", None, None, "mri"),
        ("a bright lesion", "brain tumor", None, "bright", None),
        ("hypointense lesions of the left hemisphere", "brain tumor", "left", "dark", None),
        ("cerebral metastases", "brain tumor", None, None, None),
        ("the brain", "brain", None, None, None),
        ("brain neoplasm", "brain tumor", None, None, None),
        ("pulmonary neoplasms", "lung nodule", None, None, None),
        ("skull-stripped brain", "brain", None, None, None),
        ("the left lung", "lung", "left", None, None),
        ("LUNG, right", "lung", "right", None, None),
        ("left and right lungs", "lung", None, None, None),
        ("pulmonary nodules", "lung nodule", None, None, None),
        ("tumor of the lung on CT", "lung nodule", None, None, "ct"),
        ("mass in the right lung", "lung nodule", "right", None, None),
        ("opacities on the X-ray", "lung opacity", None, None, "xray"),
        ("ground-glass opacity", "lung opacity", None, None, None),
        ("chest radiograph with consolidations", "lung opacity", None, None, "xray"),
        ("asymmetries", "asymmetry", None, None, None),
        ("hippocampi", "hippocampus", None, None, None),
        ("the whole body", "body", None, None, None),
    ],
)
def test_prompts(vocabulary_file, prompt, concept, side, contrast, modality):
    vocabulary = Vocabulary(vocabulary_file)
    words = vocabulary.parse(prompt)
    found = vocabulary.find(words, words.modality)
    assert found is not None
    assert found[0].name == concept
    assert (words.side, words.contrast, words.modality) == (side, contrast, modality)


def test_a_word_alone_follows_the_modality_of_the_scan(vocabulary_file):
    vocabulary = Vocabulary(vocabulary_file)
    found = vocabulary.find(vocabulary.parse("metastasis of the lung"), "ct")
    assert found is not None
    assert found[0].name == "lung nodule"


@pytest.mark.parametrize(
    ("word", "normal"),
    [
        ("Tumours", "tumor"), ("opacities", "opacity"), ("masses", "mass"), ("oedema", "edema"), ("lungs", "lung"),
        ("haemorrhages", "hemorrhage"), ("metastases", "metastasis"), ("grey", "gray"), ("pelvis", "pelvis"),
        ("mass", "mass"), ("diagnoses", "diagnosis"), ("virus", "virus"), ("biopsies", "biopsy"),
        ("hippocampi", "hippocampus"),
    ],
)  # fmt: skip
def test_normal_form_of_words(word, normal):
    assert normalize(word) == [normal]


def test_unknown_prompt_says_what_is_known_and_how_to_go_on(vocabulary_file):
    localizer = ConceptLocalizer(vocabulary_file)
    with pytest.raises(UnknownPromptError, match=r"'banana'.*brain tumor.*--localizer") as error:
        localizer.localize(torch.rand(1, 16, 16), ["banana"])
    assert "lung nodule" in error.value.known
    with pytest.raises(UnknownPromptError, match="negation"):
        localizer.localize(torch.rand(1, 16, 16), ["brain without tumor"])
    with pytest.raises(UnknownPromptError, match="names nothing"):
        localizer.localize(torch.rand(1, 16, 16), ["the left"])


@pytest.mark.parametrize(
    ("prompt", "concept", "side"),
    [
        ("brian tumor", "brain tumor", None),
        ("brain tumer", "brain tumor", None),
        ("brani tumor", "brain tumor", None),  # looks like a Latin plural
        ("barin tuomur", "brain", None),  # one word too far gone is left out, with a warning
        ("left lugn", "lung", "left"),
        ("rigth lungg", "lung", "right"),
        ("lunsg", "lung", None),
        ("lung nodlue", "lung nodule", None),
        ("hippocmapus", "hippocampus", None),
        ("hypocampus", "hippocampus", None),
        ("glioblastomma", "brain tumor", None),
        ("pulmonry nodule", "lung nodule", None),
    ],
)
def test_slips_of_the_fingers_are_forgiven(vocabulary_file, prompt, concept, side):
    vocabulary = Vocabulary(vocabulary_file)
    words = vocabulary.parse(prompt)
    found = vocabulary.find(words, None)
    assert found is not None
    assert (found[0].name, words.side) == (concept, side)


@pytest.mark.parametrize(
    "prompt",
    ["bicycle", "tutor", "lesson", "legion", "lunge", "train", "rumor", "chess", "noodle", "lug", "hrad",
     "qwertz uiopl", "brkjn tmvbr", "xx xx xx"],
)  # fmt: skip
def test_other_words_and_nonsense_stay_unknown(vocabulary_file, prompt):
    with pytest.raises(UnknownPromptError):
        ConceptLocalizer(vocabulary_file).localize(torch.rand(1, 16, 16), [prompt])


def test_no_known_word_is_taken_for_another(vocabulary_file):
    vocabulary = Vocabulary(vocabulary_file)
    for concept in vocabulary.concepts.values():
        for phrase in concept.phrases:
            assert not vocabulary.parse(" ".join(phrase)).corrected
    assert not vocabulary.parse("black back of the form, high chest").corrected


def test_a_mistyped_negation_is_one(vocabulary_file):
    with pytest.raises(UnknownPromptError, match="negation"):
        ConceptLocalizer(vocabulary_file).localize(torch.rand(1, 16, 16), ["brain witout tumor"])


def test_how_a_mistyped_word_was_read_is_said_once(vocabulary_file, caplog):
    localizer = ConceptLocalizer(vocabulary_file)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            localizer.localize(torch.zeros(1, 16, 16), ["brian tumor"])
    assert [record.getMessage() for record in caplog.records] == ["Prompt 'brian tumor': 'brian' was read as 'brain'."]


def test_a_mass_of_another_organ_is_refused(vocabulary_file):
    localizer = ConceptLocalizer(vocabulary_file)
    for prompt in (
        "neck mass",
        "lesions of the liver",
        "prostate tumor",
        "breast tissue",
        "vertebral body",
        "mass of the thyriod",
    ):
        with pytest.raises(UnknownPromptError, match="knows nothing of"):
            localizer.localize(torch.rand(1, 16, 16), [prompt])
    # Two words that fit name the target well enough.
    localizer.localize(
        torch.zeros(1, 16, 16),
        ["lung nodule near the heart", "brain metastasis of breast cancer", "left lung behind the heart"],
    )


def test_unknown_words_are_named_once(vocabulary_file, caplog):
    localizer = ConceptLocalizer(vocabulary_file)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            localizer.localize(torch.zeros(1, 16, 16), ["purple brain"])
    assert [record.getMessage() for record in caplog.records] == [
        "Prompt 'purple brain': read as 'brain', ignoring: purple."
    ]
