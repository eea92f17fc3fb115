# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging

import pytest
import torch

from custom.components import load_component
from custom.localizers import BodyOnly, CentredDisc, ConceptLocalizer, UnknownPromptError
from custom.localizers.base import Localizer
from custom.localizers.ensembles import LocalizerEnsemble, PromptEnsemble


class Table:
    """Constant maps with the values of a table: prompt -> value."""

    def __init__(self, native_dims=(2, 3), **values):
        self.native_dims, self.values, self.asked = native_dims, values, []

    def describe(self):
        return {"name": "table", "values": self.values}

    def localize(self, image, prompts):
        self.asked.append(list(prompts))
        for prompt in prompts:
            if prompt.replace(" ", "_") not in self.values:
                raise UnknownPromptError(prompt, self.values)
        return torch.stack([torch.full(image.shape[1:], self.values[prompt.replace(" ", "_")]) for prompt in prompts])


@pytest.fixture
def image(generator):
    return torch.rand(1, 5, 4, generator=generator)


def constant(maps):
    assert torch.equal(maps, maps[:, :1, :1].expand_as(maps))
    return maps[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("mean", 0.4),
        ("max", 0.9),
        ("product", 0.9 * 0.2 * 0.1),
        ("geometric", (0.9 * 0.2 * 0.1) ** (1 / 3)),
        ("vote", 1 / 3),
    ],
)
def test_phrasings_are_combined(image, combine, expected):
    table = Table(tumor=0.9, glioma=0.2, mass=0.1)
    ensemble = PromptEnsemble(table, synonyms={"tumor": ["glioma", "mass"]}, combine=combine)
    assert constant(ensemble.localize(image, ["tumor"])) == pytest.approx([expected])


def test_every_word_is_put_into_every_template():
    ensemble = PromptEnsemble(Table(), ["{}", "an MRI showing a {}"], {"Brain  Tumor": ["glioma", "brain tumor"]})
    assert ensemble.phrasings("brain tumor") == [
        "brain tumor",
        "an MRI showing a brain tumor",
        "glioma",
        "an MRI showing a glioma",
    ]
    assert ensemble.phrasings("a {curly} thing") == ["a {curly} thing", "an MRI showing a a {curly} thing"]


def test_prompts_keep_their_order_and_a_phrase_is_localized_once(image):
    table = Table(a=0.1, b=0.3, c=0.8)
    ensemble = PromptEnsemble(table, synonyms={"a": ["b"], "c": ["b"]})
    assert constant(ensemble.localize(image, ["c", "a", "b"])) == pytest.approx([0.55, 0.2, 0.3])
    assert table.asked == [["c", "b", "a"]]


def test_unknown_phrasings_are_left_out_and_logged_once(image, caplog):
    ensemble = PromptEnsemble(Table(tumor=0.6, glioma=0.2), synonyms={"tumor": ["blob", "glioma"]})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert constant(ensemble.localize(image, ["tumor"])) == pytest.approx([0.4])
    assert [record.getMessage() for record in caplog.records if "'blob'" in record.getMessage()] == [
        "Phrasing 'blob' of the prompt 'tumor' is left out: it names nothing that this localizer knows."
    ]


def test_a_prompt_whose_phrasings_are_all_unknown_is_unknown(image):
    ensemble = PromptEnsemble(Table(tumor=0.6), ["a picture of a {}"])
    with pytest.raises(UnknownPromptError, match=r"'tumor' .* Known: tumor") as caught:
        ensemble.localize(image, ["tumor"])
    assert caught.value.prompt == "tumor"


def test_a_prompt_ensemble_says_what_it_is_made_of(image):
    ensemble = PromptEnsemble(Table(native_dims=(2,), a=0.5), ["{}", "the {}"], {"A": ["b"]}, "max")
    assert isinstance(ensemble, Localizer)
    assert ensemble.native_dims == (2,)
    assert json.loads(json.dumps(ensemble.describe())) == {
        "name": "prompt_ensemble",
        "version": 1,
        "localizer": {"name": "table", "values": {"a": 0.5}},
        "templates": ["{}", "the {}"],
        "synonyms": {"a": ["b"]},
        "combine": "max",
    }
    assert ensemble.localize(image, []).shape == (0, 5, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"templates": ["a photo"]}, "a photo"), ({"templates": []}, "template"), ({"combine": "median"}, "median")],
)
def test_wrong_prompt_ensembles_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        PromptEnsemble(Table(), **options)


@pytest.mark.parametrize(
    ("combine", "weights", "expected"),
    [
        ("mean", None, 0.5),
        ("mean", [3, 1], 0.65),
        ("max", None, 0.8),
        ("product", None, 0.16),
        ("geometric", None, 0.4),
        ("vote", None, 0.5),
        ("vote", [1, 3], 0.25),
    ],
)
def test_localizers_are_combined(image, combine, weights, expected):
    ensemble = LocalizerEnsemble([Table(tumor=0.8), Table(tumor=0.2)], weights, combine)
    assert constant(ensemble.localize(image, ["tumor"])) == pytest.approx([expected])


def test_members_that_do_not_know_a_prompt_find_nothing(image, caplog):
    ensemble = LocalizerEnsemble([Table(lung=0.8, heart=0.4), Table(lung=0.6), Table(heart=0.9, lung=0.1)])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = constant(ensemble.localize(image, ["heart", "lung"]))
            assert found == pytest.approx([(0.4 + 0 + 0.9) / 3, 0.5])
    assert [record.getMessage() for record in caplog.records] == [
        "Prompt 'heart' counts as an empty map of Table: it names nothing that this localizer knows."
    ]


def test_what_no_member_knows_is_unknown(image):
    ensemble = LocalizerEnsemble([Table(lung=0.8), Table(heart=0.6)])
    with pytest.raises(UnknownPromptError, match=r"'liver' .* Known: lung, heart"):
        ensemble.localize(image, ["lung", "liver"])


def test_other_complaints_are_passed_on(image):
    class Strange(Table):
        def localize(self, image, prompts):
            raise UnknownPromptError("something else", [])

    with pytest.raises(UnknownPromptError, match="something else"):
        LocalizerEnsemble([Strange(), Table(a=1.0)]).localize(image, ["a"])


def test_a_localizer_ensemble_says_what_it_is_made_of(image):
    ensemble = LocalizerEnsemble([Table(native_dims=(2,), a=0.5), Table(a=1.0)], [1, 2])
    assert isinstance(ensemble, Localizer)
    assert ensemble.native_dims == (2,)
    described = json.loads(json.dumps(ensemble.describe()))
    assert described["weights"] == [1, 2]
    assert [member["values"] for member in described["localizers"]] == [{"a": 0.5}, {"a": 1.0}]
    assert ensemble.localize(image, []).shape == (0, 5, 4)


@pytest.mark.parametrize(
    ("members", "options", "match"),
    [
        ([], {}, "at least one"),
        ([Table(native_dims=(2,)), Table(native_dims=(3,))], {}, "Slicewise"),
        ([Table()], {"weights": [1, 2]}, "1 numbers"),
        ([Table()], {"combine": "sum"}, "sum"),
    ],
)
def test_wrong_localizer_ensembles_are_refused(members, options, match):
    with pytest.raises(ValueError, match=match):
        LocalizerEnsemble(members, **options)


def test_the_example_can_be_built(configs, repository, monkeypatch):
    monkeypatch.chdir(repository)
    ensemble = load_component(configs / "localizers", "ensemble", {"combine": "max"})
    assert ensemble.native_dims == (2, 3)
    assert ensemble.combine == "max"


def test_with_the_shipped_localizers(configs, image):
    concept = ConceptLocalizer(configs / "localizers" / "vocabulary.yaml")
    prompts = PromptEnsemble(concept, ["{}", "an MRI showing a {}"], {"brain tumor": ["glioma"]})
    found = LocalizerEnsemble([prompts, CentredDisc(), BodyOnly()]).localize(torch.rand(1, 40, 48), ["brain tumor"])
    assert found.shape == (1, 40, 48)
    assert 0 <= found.min() <= found.max() <= 1
