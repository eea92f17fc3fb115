# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files: a user's own, and what their mistakes are answered with."""

from __future__ import annotations

import pytest
import torch

from custom.components import load_component
from custom.localizers import ConceptLocalizer, Localizer, Vocabulary, VocabularyError


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concepts: {spot: {synonyms: [dot]}}", "'spot'.*steps"),
        ("concepts: {spot: {steps: [shine]}}", "'spot'.*step 1.*unknown operator 'shine'.*brain"),
        ("concepts: {spot: {steps: [body, {lesion: {colour: red}}]}}", "'spot'.*step 2.*'colour'.*contrast"),
        ("concepts: {spot: {steps: []}}", "'spot'.*list of operators"),
        ("concepts: {spot: {steps: {pet: [body]}}}", "'spot'.*'pet'"),
        ("concepts: {spot: {modality: pet, steps: [body]}}", "'spot'.*'pet'.*mri"),
        ("concepts: {spot: {steps: [body], color: red}}", "'spot'.*'color'"),
        ("concepts: {the: {steps: [body]}}", "'the'.*no word"),
        ("concept: {}", "unknown section 'concept'"),
        ("concepts: {}", "no entry"),
        ("concepts: [a]", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("a: [", "not YAML"),
        ("extends: nowhere.yaml", "nowhere.yaml.*cannot be read"),
        ("extends: mine.yaml", "circle"),
        ("modality_words: {pet: [pet]}", "'pet'"),
    ],
)  # fmt: skip
def test_errors_name_file_and_entry(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(VocabularyError, match=message) as error:
        Vocabulary(path)
    assert str(tmp_path) in str(error.value)


def test_a_users_file_extends_the_shipped_one(tmp_path, configs):
    path = write(
        tmp_path,
        f"extends: {configs / 'localizers' / 'vocabulary.yaml'}\n"
        "aliases: {noggin: head}\n"
        "concepts:\n  air: {synonyms: [surrounding air], steps: [body, complement]}\n",
    )
    localizer = ConceptLocalizer(path)
    image = torch.zeros(1, 32, 32)
    image[:, 8:24, 8:24] = 100
    air, body = localizer.localize(image, ["surrounding airs", "noggin"])
    assert air[0, 0] == 1
    assert air[16, 16] == 0
    assert body[16, 16] == 1
    assert "lung nodule" in localizer.vocabulary.concepts


def test_content_decides_the_record(tmp_path, configs):
    path = write(tmp_path, "concepts: {thing: {steps: [body]}}")
    before = ConceptLocalizer(path).describe()
    write(tmp_path, "# a comment\nconcepts: {thing: {steps: [body]}}")
    assert ConceptLocalizer(path).describe() == before
    write(tmp_path, "concepts: {thing: {steps: [{body: {level: 0.6}}]}}")
    assert ConceptLocalizer(path).describe() != before
    assert ConceptLocalizer(path, modality="mri").describe() != ConceptLocalizer(path).describe()


@pytest.mark.parametrize(
    ("options", "message"), [({"modality": "pet"}, "mri, ct, xray"), ({"sides_2d": "x"}, "radiological")]
)
def test_parameters_are_checked(configs, options, message):
    with pytest.raises(ValueError, match=message):
        ConceptLocalizer(configs / "localizers" / "vocabulary.yaml", **options)


@pytest.mark.parametrize("name", ["concept", "disc", "body"])
def test_shipped_components(configs, monkeypatch, repository, name):
    monkeypatch.chdir(repository)
    localizer = load_component(configs / "localizers", name)
    assert isinstance(localizer, Localizer)
    assert localizer.describe()["name"]
    assert localizer.localize(torch.rand(1, 24, 24), ["body"]).shape == (1, 24, 24)
    assert localizer.localize(torch.rand(1, 12, 14, 16), ["body", "body"]).shape == (2, 12, 14, 16)
