# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files: a user's own, and what their mistakes are answered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from custom.components import load_component
from custom.localizers import ConceptLocalizer, Localizer, Vocabulary, VocabularyError
from custom.localizers.operators import OPERATORS


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
        ("{elsewhere: {neck: throat}, concepts: {spot: {steps: [body]}}}", "elsewhere 'neck'.*list of words"),
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


def test_what_a_users_file_defines_is_no_longer_elsewhere(tmp_path, configs):
    text = f"extends: {configs / 'localizers' / 'vocabulary.yaml'}\nconcepts: {{liver: {{steps: [body]}}}}"
    vocabulary = Vocabulary(write(tmp_path, text))
    assert "liver" not in vocabulary.foreign
    assert "kidney" in vocabulary.foreign
    assert vocabulary.find(vocabulary.parse("livre"), None)[0].name == "liver"


def from_file(scan, weights: str):
    """An operator that takes weights: the whole scan at the level that the file states."""
    return np.full(scan.values.shape, float(Path(weights).read_text()), dtype=np.float32)


@pytest.fixture
def with_operator(monkeypatch):
    monkeypatch.setattr("custom.localizers.vocabulary.OPERATORS", {**OPERATORS, "from_file": from_file})
    monkeypatch.setattr("custom.localizers.concept.SOURCES", {"from_file": from_file})


LEARNED = "concepts: {spot: {steps: [{from_file: {weights: w.bin}}]}, dot: {steps: [from_file]}, rest: {steps: [body]}}"


def level(localizer, prompt="spot"):
    image = torch.arange(64.0).reshape(1, 8, 8)
    return float(localizer.localize(image, [prompt]).max())


def test_weights_lie_beside_the_vocabulary_or_where_one_works(tmp_path, monkeypatch, with_operator):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write(tmp_path / "there", "concepts: {spot: {steps: [{from_file: {weights: w.bin}}]}}")
    with pytest.raises(
        VocabularyError, match=r"'spot'.*'w\.bin'.*beside the vocabulary and in .*here.*weights: FOLDER"
    ):
        ConceptLocalizer(path)
    (tmp_path / "here" / "w.bin").write_text("0.25")
    assert level(ConceptLocalizer(path)) == 0.25
    (tmp_path / "there" / "w.bin").write_text("0.5")
    assert level(ConceptLocalizer(path)) == 0.5


def test_weights_given_replace_those_of_the_vocabulary(tmp_path, with_operator):
    path = write(tmp_path, LEARNED)
    for name, value in (("w.bin", "0.5"), ("a.bin", "0.25"), ("b.bin", "0.75")):
        (tmp_path / name).write_text(value)
    with pytest.raises(VocabularyError, match="'dot': from_file needs weights"):
        ConceptLocalizer(path)
    everywhere = ConceptLocalizer(path, weights=str(tmp_path / "a.bin"))
    assert (level(everywhere, "spot"), level(everywhere, "dot")) == (0.25, 0.25)
    one = ConceptLocalizer(path, weights={"dot": tmp_path / "b.bin"})
    assert (level(one, "spot"), level(one, "dot")) == (0.5, 0.75)
    for given, message in [({"rest": "a.bin"}, "'rest'.*spot, dot"), ({"none": "a.bin"}, "'none'.*spot, dot")]:
        with pytest.raises(VocabularyError, match=message):
            ConceptLocalizer(path, weights=given)


def test_weights_without_a_taker_are_refused(tmp_path):
    path = write(tmp_path, "concepts: {thing: {steps: [body]}}")
    with pytest.raises(VocabularyError, match=r"mine\.yaml.*no operator of it takes any"):
        ConceptLocalizer(path, weights="w.bin")


def test_the_content_of_weights_decides_the_record_not_their_place(tmp_path, with_operator):
    text = "concepts: {spot: {steps: [{from_file: {weights: w.bin}}]}}"
    (tmp_path / "w.bin").write_text("0.5")
    before = ConceptLocalizer(write(tmp_path, text)).describe()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "w.bin").write_text("0.5")
    assert ConceptLocalizer(write(tmp_path / "moved", text)).describe() == before
    (tmp_path / "moved" / "w.json").write_text("{}")
    assert ConceptLocalizer(write(tmp_path / "moved", text)).describe() != before, "the settings beside them count"
    (tmp_path / "w.bin").write_text("0.6")
    assert ConceptLocalizer(write(tmp_path, text)).describe() != before


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
