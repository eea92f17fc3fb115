# SPDX-License-Identifier: Apache-2.0
"""Every command of the README works as it stands there."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks_of, read_page, steps_of

STEPS = steps_of(blocks_of("README.md", read_page("README.md")))


@pytest.mark.parametrize("number", range(len(STEPS)), ids=map(str, STEPS))
def test_the_readme_does_what_it_says(reader_of, number: int) -> None:
    reader_of("README.md").reach(number)
