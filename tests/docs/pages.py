# SPDX-License-Identifier: Apache-2.0
"""What a page of documentation asks its reader to do, in order. The blocks that there are: docs/README.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
LANGUAGES = ("bash", "python", "yaml", "text")
_NOTE = re.compile(r"<!-- (file|fails|not run)(?:: (.+?))? -->")
_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code, and the note in the line before it.

    Attributes:
        page: path of the page.
        line: where its text begins, counted from 1.
        language: what stands behind the three backticks.
        text: the code.
        note: "file", "fails", "not run" or "".
        value: what the note says: the file's name, the reason.
    """

    page: str
    line: int
    language: str
    text: str
    note: str = ""
    value: str = ""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        page: path of the page.
        line: where it stands.
        kind: "command", "python", "file" or "yaml".
        text: the command, or the code.
        file: the name of a file.
        error: what the message of a command that must fail holds; None: it must not fail.
    """

    page: str
    line: int
    kind: str
    text: str
    file: str = ""
    error: str | None = None

    def __str__(self) -> str:
        first = self.file or self.text.strip().splitlines()[0]
        return f"{self.page}:{self.line}: {first[:60]}"


def read_page(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the blocks of code of a page.

    Raises:
        ValueError: if one has no known language, or a note stands before no block.
    """
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 2
        before = text[: fence.start()].rstrip().rpartition("\n")[2].strip()
        note = _NOTE.fullmatch(before)
        indent = fence["indent"]
        code = "".join(each.removeprefix(indent) for each in fence["text"].splitlines(keepends=True))
        if fence["language"] not in LANGUAGES and not (note and note[1] == "file"):
            raise ValueError(f"{page}:{line}: a block's language must be one of {', '.join(LANGUAGES)}.")
        found.append(Block(page, line, fence["language"], code, *((note[1], note[2] or "") if note else ())))
    notes = len(_NOTE.findall(_FENCE.sub("", text)))
    # Notes are quoted in the page that explains them: those stand in backticks.
    quoted = len(re.findall(r"`<!-- .+? -->`", text))
    if notes - quoted != sum(bool(block.note) for block in found):
        raise ValueError(f"{page}: a note (<!-- file: ... -->) must stand in the line before a block of code.")
    return found


def steps_of(blocks: list[Block]) -> list[Step]:
    """Return what is to be done, in order, without what is not to be run."""
    steps: list[Step] = []
    for at, block in enumerate(blocks):
        if block.note == "not run":
            continue
        if block.note == "file":
            steps.append(Step(block.page, block.line, "file", block.text, block.value))
        elif block.language == "bash":
            error = _message(blocks, at) if block.note == "fails" else None
            steps += [Step(block.page, block.line, "command", command, "", error) for command in commands(block.text)]
        elif block.language in ("python", "yaml"):
            steps.append(Step(block.page, block.line, block.language, block.text))
    return steps


def _message(blocks: list[Block], at: int) -> str:
    if at + 1 == len(blocks) or blocks[at + 1].language != "text":
        raise ValueError(f"{blocks[at].page}:{blocks[at].line}: a block of text with the message must follow.")
    return blocks[at + 1].text


def commands(text: str) -> list[str]:
    """Return the commands of a shell block, one a line; lines that end in a backslash go on."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def prose_of(text: str) -> str:
    """Return a page without its blocks of code."""
    return _FENCE.sub("", text)
