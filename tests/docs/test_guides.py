# SPDX-License-Identifier: Apache-2.0
"""Every command and every example of the guides in docs/ works as it stands there."""

from __future__ import annotations

import pytest

from tests.docs.pages import PAGES, blocks_of, read_page, steps_of

STEPS = [
    pytest.param(page, number, id=str(step))
    for page in PAGES[1:]
    for number, step in enumerate(steps_of(blocks_of(page, read_page(page))))
]


@pytest.mark.parametrize(("page", "number"), STEPS)
def test_a_guide_does_what_it_says(reader_of, page: str, number: int) -> None:
    reader_of(page).reach(number)
