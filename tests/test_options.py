# SPDX-License-Identifier: Apache-2.0
"""Values as they arrive from the command line."""

from __future__ import annotations

import fire
import pytest

from custom.options import flag, mapping


@pytest.mark.parametrize("value", [True, "true", "Yes", 1, "1"])
def test_yes(value):
    assert flag(value, "probe") is True


@pytest.mark.parametrize("value", [False, "false", "No", 0, None])
def test_no(value):
    assert flag(value, "probe") is False


def test_neither():
    with pytest.raises(ValueError, match="--probe must be true or false"):
        flag("maybe", "probe")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{download: true}", {"download": True}),
        ("{source: /a/b, download: false}", {"source": "/a/b", "download": False}),
        ("{'source': '/a/b', 'download': True}", {"source": "/a/b", "download": True}),
        ("{area: 0.3}", {"area": 0.3}),
        ("{sam: {source: /m/sam, device: null}}", {"sam": {"source": "/m/sam", "device": None}}),
        ("{axes: [0, 1, 2], fusion: mean}", {"axes": [0, 1, 2], "fusion": "mean"}),
    ],
)  # fmt: skip
def test_options_mean_what_they_say_on_a_real_command_line(written, meant):
    given = fire.Fire(lambda options: {"given": options}, command=["--options", written], serialize=lambda _: None)
    assert mapping(given["given"], "localizer_options") == meant


def test_no_options():
    assert mapping(None, "x") == mapping({}, "x") == mapping("", "x") == {}


@pytest.mark.parametrize("value", [["a"], 3, "word", "[1, 2]", "{unclosed"])
def test_what_is_no_mapping(value):
    with pytest.raises(ValueError, match="--mask_options must be a mapping"):
        mapping(value, "mask_options")


def test_the_example_fits_the_option():
    with pytest.raises(ValueError, match=r'for example --classes "\{1: anterior\}"; got \'4, 5\''):
        mapping("4, 5", "classes", "{1: anterior}")
