# SPDX-License-Identifier: Apache-2.0
"""The prompt library: the shipped one, a user's own, and what mistakes are answered with."""

from __future__ import annotations

import pytest

from custom.prompts import NoPromptError, PromptLibrary, PromptLibraryError


@pytest.fixture(scope="module")
def library(configs) -> PromptLibrary:
    return PromptLibrary(configs / "prompts")


def test_the_shipped_library_covers_what_radiology_asks_for(library):
    assert set(library.modalities) == {"mri", "ct", "xray"}
    assert {"mri/brain", "mri/breast", "mri/pelvis", "ct/chest", "ct/abdomen", "xray/chest"} <= set(library.places())
    for target in ("hippocampus", "left lung", "kidney", "heart", "breast mass", "prostate", "liver", "pneumonia"):
        assert library.synonyms(target), target


def test_prompts_of_a_place(library):
    assert library.prompts("mri/brain") == ["brain tumor"]
    assert library.prompts("XRAY/Chest") == ["lungs"]
    assert library.prompts("mri/Head and Neck") == ["neck mass"]
    assert set(library.prompts("chest")) == {"lung nodule", "heart", "lungs"}
    with pytest.raises(NoPromptError, match=r"no 'mri/toe'.*ct/brain.*add it to a file"):
        library.prompts("mri/toe")


def test_synonyms_do_not_depend_on_case_number_spelling_or_order(library):
    usual = library.synonyms("brain tumor")
    for other in ("Brain Tumours", "tumor of the brain", "brain tumor on MRI"):
        assert set(usual) - set(library.synonyms(other)) <= {"brain tumour", "tumor mass of the brain"}
    assert library.synonyms("left kidney") == ["left renal parenchyma"], "its own entry"
    assert "right splenic parenchyma" in library.synonyms("right spleen"), "the entry without a side"


def test_classes_of_tumors_are_no_synonyms(library):
    named = " ".join(library.synonyms("brain tumor"))
    assert not any(word in named for word in ("glioma", "meningioma", "pituitary", "metastas"))


FILE = "body_parts: {{leg: {{words: [leg], prompts: [tibia], targets: {{tibia: [shin bone]}}{more}}}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("[a]", "must be a mapping"),
        ("colour: red", "unknown key 'colour'"),
        ("modality: us", "needs `body_parts`"),
        (FILE.format(more=", near: [arm]"), "'leg'.*near 'arm'"),
        (FILE.format(more=", size: 3"), "'leg'.*unknown key 'size'"),
        ("body_parts: {leg: {prompts: [tibia]}}", "'leg'.*needs `targets`"),
        ("body_parts: {leg: {targets: {tibia: [shin]}}}", "'leg'.*needs `prompts`"),
        ("body_parts: {leg: {prompts: [foot], targets: {tibia: [shin]}}}", "'leg'.*'foot' is not among.*tibia"),
        ("body_parts: {leg: {prompts: [tibia], targets: {tibia: [no]}}}", "'leg'.*'tibia'.*False.*quotes"),
    ],
)
def test_errors_name_file_and_entry(tmp_path, text, message):
    (tmp_path / "us.yaml").write_text(text)
    with pytest.raises(PromptLibraryError, match=message) as error:
        PromptLibrary(tmp_path)
    assert "us.yaml" in str(error.value)


def test_a_users_library(tmp_path):
    with pytest.raises(PromptLibraryError, match="no \\*\\.yaml file"):
        PromptLibrary(tmp_path)
    (tmp_path / "us.yaml").write_text(FILE.format(more=""))
    assert PromptLibrary(tmp_path).places() == ["us/leg"]
    (tmp_path / "other.yaml").write_text("modality: us\n" + FILE.format(more=""))
    with pytest.raises(PromptLibraryError, match=r"us\.yaml: the modality 'us' has a file already"):
        PromptLibrary(tmp_path)
