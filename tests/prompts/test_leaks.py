# SPDX-License-Identifier: Apache-2.0
"""Prompts that name a class of the labels."""

from __future__ import annotations

import warnings

import pytest

from custom.prompts import LabelLeakWarning, leaks, warn_of_leak

TUMORS = ["glioma", "meningioma", "pituitary"]


@pytest.mark.parametrize(
    ("prompt", "labels", "named"),
    [
        ("glioma", TUMORS, ["glioma"]),
        ("Gliomas", TUMORS, ["glioma"]),
        ("tumor of the pituitary", TUMORS, ["pituitary"]),
        ("covid pneumonia", ["covid", "normal"], ["covid"]),
        ("covid pneumonia", ["COVID-19", "Normal"], ["COVID-19"]),
        ("pneumonia, viral", ["bacterial_pneumonia", "viral_pneumonia"], ["viral_pneumonia"]),
        ("lung nodules", ["lung_nodule", "none"], ["lung_nodule"]),
        ("brain tumor", TUMORS, []),
        ("brain tumor", ["glioma_tumor", "no_tumor"], []),
        ("covid", ["non_covid", "healthy"], []),
        ("lung nodule", ["lung_nodule"], []),  # one class: nothing to tell
        ("lungs", ["0", "1"], []),
        ("lungs", [], []),
    ],
)
def test_what_names_a_class(prompt, labels, named):
    assert leaks([prompt], labels).get(prompt, []) == named
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert warn_of_leak([prompt], labels) == bool(named)
    assert [each.category for each in caught] == [LabelLeakWarning] * bool(named)


def test_one_warning_names_prompts_and_classes_and_says_what_to_do():
    with pytest.warns(LabelLeakWarning) as caught:
        warn_of_leak(["glioma", "brain tumor", "meningiomas"], TUMORS)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'glioma' names 'glioma'; 'meningiomas' names 'meningioma'" in message
    assert "'brain tumor' names" not in message
    assert "Name what all classes have in common" in message
