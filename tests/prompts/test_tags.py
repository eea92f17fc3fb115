# SPDX-License-Identifier: Apache-2.0
"""From DICOM tags to prompts."""

from __future__ import annotations

import pytest

from custom.prompts import NoPromptError, PromptLibrary, prompts_from_tags


@pytest.fixture(scope="module")
def library(configs) -> PromptLibrary:
    return PromptLibrary(configs / "prompts")


@pytest.mark.parametrize(
    ("tags", "prompts"),
    [
        ({"Modality": "MR", "BodyPartExamined": "BRAIN"}, ["brain tumor"]),
        ({"Modality": "MR", "BodyPartExamined": "HEAD"}, ["brain tumor"]),
        ({"Modality": "MR", "StudyDescription": "MRT Schädel nativ + KM"}, ["brain tumor"]),
        ({"Modality": "MR", "StudyDescription": "IRM encéphale"}, ["brain tumor"]),
        ({"Modality": "MR", "SeriesDescription": "T1W_BRAIN_sag"}, ["brain tumor"]),
        ({"Modality": "MR", "BodyPartExamined": "PROSTATE"}, ["prostate"]),
        ({"Modality": "MR", "StudyDescription": "MR Mamma bds."}, ["breast mass"]),
        ({"Modality": "MR", "BodyPartExamined": "HEAD AND NECK"}, ["neck mass"]),
        ({"Modality": "CT", "BodyPartExamined": "CHEST"}, ["lung nodule"]),
        ({"Modality": "CT", "StudyDescription": "CTThorax mit KM"}, ["lung nodule"]),
        ({"Modality": "CT", "StudyDescription": "CT Chest/Abdomen w contrast"}, ["lung nodule", "liver tumor"]),
        ({"Modality": "CT", "BodyPartExamined": "CHESTABDPELVIS"}, ["lung nodule", "liver tumor", "bladder"]),
        ({"Modality": "CT", "StudyDescription": "Thoracic spine"}, ["vertebra"]),
        ({"Modality": "DX", "BodyPartExamined": "CHEST"}, ["lungs"]),
        ({"Modality": "cr", "StudyDescription": "Rx torax PA"}, ["lungs"]),
        ({"Modality": "MG", "BodyPartExamined": "BREAST"}, ["breast mass"]),
        # The tag that was made for it decides, the request before the protocol.
        ({"Modality": "CT", "BodyPartExamined": "ABDOMEN", "StudyDescription": "Chest"}, ["liver tumor"]),
        ({"Modality": "CT", "BodyPartExamined": "UNKNOWN", "StudyDescription": "Chest"}, ["lung nodule"]),
        ({"Modality": "CT", "StudyDescription": "Chest", "SeriesDescription": "Abdomen"}, ["lung nodule"]),
        ({"BodyPartExamined": "PROSTATE", "Modality": ""}, None),  # bladder on CT
        ({"BodyPartExamined": "KNEE", "Modality": "MR"}, ["meniscus"]),
    ],
)
def test_words_of_the_tags_choose_entries(library, tags, prompts):
    if prompts is None:
        with pytest.raises(NoPromptError, match="Modality is missing"):
            prompts_from_tags(tags, library)
    else:
        assert prompts_from_tags(tags, library) == prompts


def test_a_diagnosis_in_a_description_never_becomes_a_prompt(library):
    tags = {"Modality": "MR", "StudyDescription": "Brain, glioblastoma follow-up", "SeriesDescription": "glioma"}
    assert prompts_from_tags(tags, library) == ["brain tumor"]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, "no DICOM tag says.*--prompt"),
        ({"Modality": " "}, "no DICOM tag says.*library:<modality>"),
        ({"Modality": "US", "BodyPartExamined": "BREAST"}, r"nothing for the modality 'US'; it has ct \(CT\)"),
        ({"Modality": "MR", "SeriesDescription": "COR T2 tse"}, "name no body part.*'COR T2 tse'.*brain.*add the word"),
    ],
)
def test_tags_that_say_nothing(library, tags, message):
    with pytest.raises(NoPromptError, match=message):
        prompts_from_tags(tags, library)
