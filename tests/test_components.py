# SPDX-License-Identifier: Apache-2.0
"""Components by name."""

from __future__ import annotations

import pytest

from custom.components import component_names, load_component


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "counter.yaml").write_text("_target_: collections.Counter\na: 1\nb: 2\n")
    (tmp_path / "data.yaml").write_text("words: [one]\n")
    return tmp_path


def test_options_replace_the_file_and_the_file_replaces_defaults(folder):
    assert dict(load_component(folder, "counter", {"b": 5}, b=7, c=3)) == {"a": 1, "b": 5, "c": 3}


def test_a_file_of_ones_own_works_by_its_path(folder):
    assert dict(load_component("elsewhere", str(folder / "counter.yaml"))) == {"a": 1, "b": 2}


def test_only_files_that_build_something_are_components(folder):
    assert component_names(folder) == ["counter"]
    with pytest.raises(ValueError, match="no `_target_`"):
        load_component(folder, "data")


def test_an_unknown_name_is_answered_with_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"No component 'conter'.*Known: counter"):
        load_component(folder, "conter")
