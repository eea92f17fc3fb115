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


def test_a_name_does_not_leave_the_folder(folder):
    for name in (str(folder / "counter"), f"../{folder.name}/counter", "./../" + folder.name + "/counter"):
        with pytest.raises(ValueError, match=r"No component .*Known: "):
            load_component(folder / "masking" if name.startswith("/") else folder, name)


def test_an_unknown_option_is_answered_with_the_files_own(folder, configs):
    with pytest.raises(ValueError, match=r"localizers.concept\.yaml has no option 'vocabularly'\. Known: vocabulary"):
        load_component(configs / "localizers", "concept", "{vocabularly: x.yaml}")
    with pytest.raises(ValueError, match=r"masking.region\.yaml has no option 'region_ration'\. Known: .*region_ratio"):
        load_component(configs / "masking", "region", {"region_ration": 0.8})
    with pytest.raises(ValueError, match=r"decoders.thin\.yaml has no option 'with'\. Known: .*width"):
        load_component(configs / "decoders", "thin", {"with": 8}, spatial_dims=2, channels=[8], strides=[2])
    (folder / "fraction.yaml").write_text("_target_: fractions.Fraction\n")
    assert load_component(folder, "fraction", {"numerator": 1, "_desc_": "one"}, denominator=2) == 0.5


@pytest.mark.parametrize("target", ["builtins.dict", "collections.Counter"])
def test_what_takes_any_option_gets_it(target, folder):
    (folder / "any.yaml").write_text(f"_target_: {target}\n")
    assert dict(load_component(folder, "any", {"x": 1})) == {"x": 1}
