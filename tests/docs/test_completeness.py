# SPDX-License-Identifier: Apache-2.0
"""Nothing in README and guides escapes the tests: exemptions have their reasons; options, modules, files are there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from tests.docs import exempt
from tests.docs.pages import PAGES, REPOSITORY, blocks_of, commands, prose_of, read_page
from tests.docs.running import config_files, is_exempt, is_workflow, options_of, parts_of

# Options of `monai.bundle run` itself.
OF_MONAI = {"config_file", "meta_file", "logging_file", "args_file", "run_id", "init_id", "final_id", "tracking"}
CONFIGS = REPOSITORY / "bundle" / "configs"


@cache
def settings(file: Path) -> frozenset[str]:
    """Top-level names of a config: what can be given on the command line."""
    return frozenset(ConfigParser.load_config_file(str(file)))


def all_commands(page: str) -> list[str]:
    return [
        command
        for block in blocks_of(page, read_page(page))
        if block.language == "bash"
        for command in commands(block.text)
    ]


def code_spans(page: str) -> Iterator[str]:
    """Code within the lines of a page."""
    for span in re.findall(r"`([^`]+)`", prose_of(read_page(page))):
        yield " ".join(span.split())


def unknown_options(names: list[str], files: list[Path]) -> list[str]:
    known = OF_MONAI.union(*map(settings, files))
    return [name for name in names if name.partition("#")[0] not in known]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_has_its_reason(page: str) -> None:
    found = [block.value for block in blocks_of(page, read_page(page)) if block.note == "not run"]
    assert found == exempt.BLOCKS.get(page, [])


def test_exemptions_are_needed() -> None:
    assert set(exempt.BLOCKS) <= set(PAGES)
    parts = [" ".join(part) for page in PAGES for command in all_commands(page) for part in parts_of(command)]
    for beginning in exempt.PARTS:
        assert any(part.startswith(beginning) for part in parts), beginning


@pytest.mark.parametrize("page", PAGES)
def test_options_of_commands_are_settings_of_their_configs(page: str) -> None:
    for command in all_commands(page):
        for words in filter(is_workflow, parts_of(command)):
            files = [REPOSITORY / file for file in config_files(words)]
            assert not unknown_options(list(options_of(words)), files), command


@pytest.mark.parametrize("page", PAGES)
def test_options_within_lines_are_settings(page: str) -> None:
    for span in code_spans(page):
        named = re.match(r"(?:(\w+)\.yaml )?(--\w.*)", span)
        if named:
            options = re.findall(r"(?:^| )--([\w#]+)", named[2])
            files = [CONFIGS / f"{named[1]}.yaml"] if named[1] else sorted(CONFIGS.glob("*.yaml"))
            assert set(unknown_options(options, files)) <= exempt.OPTIONS.keys(), span


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_can_be_run_exist(page: str) -> None:
    for module in set(re.findall(r"(?<!\w)python3? -m ([\w.]+)", read_page(page))):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", PAGES)
def test_configs_that_are_named_exist(page: str) -> None:
    for file in set(re.findall(r"bundle/configs/[\w./]+\.yaml", read_page(page))):
        assert (REPOSITORY / file).is_file(), file


@pytest.mark.parametrize("page", PAGES[1:])
def test_files_and_headings_that_a_guide_names_are_there(page: str) -> None:
    text = prose_of(read_page(page))
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", text):
        if link.startswith("http"):
            continue
        target = (REPOSITORY / page).parent / link if link else REPOSITORY / page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), f"{link}#{anchor}"
    for path in re.findall(r"`((?:bundle|benchmarks|custom|datasets|docs|tests)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists(), path


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", prose_of(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_guide_is_in_the_index() -> None:
    index = read_page("docs/README.md")
    for page in PAGES[1:]:
        assert page == "docs/README.md" or f"]({Path(page).name})" in index, page


def test_nothing_but_the_setting_up_is_exempt_in_the_readme() -> None:
    for command in all_commands("README.md"):
        for words in parts_of(command):
            assert is_workflow(words) != is_exempt(words), words
