# SPDX-License-Identifier: Apache-2.0
"""How a page is read, and how its commands are changed and run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks_of, commands, steps_of
from tests.docs.running import Workplace, parts_of, quickened

PAGE = """
Text, and `<!-- not run: quoted -->`.

<!-- file: mine/a.py -->
```python
x = 1
```

```bash
# a comment
first --option 1 \\
  --other 2
second
```

1. In a list:

   <!-- not run: no network here -->
   ```bash
   third
   ```

<!-- fails -->
```bash
fourth
```

```text
What went wrong: ...
```
"""


def test_steps_come_in_order_with_what_their_notes_say() -> None:
    steps = steps_of(blocks_of("page.md", PAGE))
    assert [(step.kind, step.text.strip(), step.file, step.error) for step in steps] == [
        ("file", "x = 1", "mine/a.py", None),
        ("command", "first --option 1    --other 2", "", None),
        ("command", "second", "", None),
        ("command", "fourth", "", "What went wrong: ...\n"),
    ]
    assert PAGE.splitlines()[steps[1].line - 1] == "# a comment"


def test_the_reason_why_something_is_not_run_is_known() -> None:
    assert [block.value for block in blocks_of("page.md", PAGE) if block.note == "not run"] == ["no network here"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nls\n```\n", "page.md:2: a block's language"),
        ("```sh\nls\n```\n", "language must be one of bash"),
        ("<!-- not run: far away -->\n\nText.\n\n```bash\nls\n```\n", "must stand in the line before a block"),
        ("<!-- fails -->\n```bash\nls\n```\n", "a block of text with the message must follow"),
    ],
)
def test_pages_that_leave_open_what_is_meant_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steps_of(blocks_of("page.md", text))


def test_a_block_of_a_file_may_be_in_any_language() -> None:
    (block,) = blocks_of("page.md", "<!-- file: a.toml -->\n```toml\nx = 1\n```\n")
    assert (block.note, block.value, block.text) == ("file", "a.toml", "x = 1\n")


def test_commands_are_lines() -> None:
    assert commands("a b \\\n  c\n\n# no\nd\n") == ["a b    c", "d"]


def test_commands_are_split_where_the_shell_splits_them() -> None:
    command = (
        "V=${W:-x}; python3 -m venv $V && $V/bin/python -m monai.bundle run --prompt \"a; b && c\" --classes '{1: x}'"
    )
    assert parts_of(command) == [
        ["V=${W:-x}"],
        ["python3", "-m", "venv", "$V"],
        ["python", "-m", "monai.bundle", "run", "--prompt", "a; b && c", "--classes", "{1: x}"],
    ]


def test_quick_settings_come_last_and_small_ones_only_where_none_is_given() -> None:
    words = ["run", "--config_file", "bundle/configs/pretrain.yaml", "--backbone", "resnet50", "--max_epochs", "300"]
    quick = quickened(words)
    assert quick[: len(words)] == words
    assert quick[quick.index("--max_epochs", len(words)) + 1] == "1"
    assert quick.count("--backbone") == 1
    assert "--image_size" in quick


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_a_workflow_sees_files_of_the_folder_and_leaves_the_process_as_it_was(workplace: Workplace) -> None:
    path, hook, here = sys.path[:], sys.excepthook, Path.cwd()
    steps = blocks_of(
        "page.md",
        "<!-- file: mine/told.py -->\n```python\ndef tell(text):\n    open('told.txt', 'w').write(text)\n```\n"
        '<!-- file: tell.yaml -->\n```yaml\nwords: null\nrun: [{_target_: mine.told.tell, text: "@words"}]\n```\n'
        "```bash\npython -m monai.bundle run --config_file tell.yaml --words hello\n```\n"
        "```python\nassert open('told.txt').read() == 'hello'\n```\n",
    )
    for step in steps_of(steps):
        workplace.do(step)
    assert (sys.path, sys.excepthook, Path.cwd()) == (path, hook, here)
    assert not any(name == "mine" or name.startswith("mine.") for name in sys.modules)


def test_a_command_that_fails_is_noticed(workplace: Workplace) -> None:
    workplace.run("mkdir folder && ls folder")
    with pytest.raises(AssertionError, match="nowhere"):
        workplace.run("ls nowhere")
    with pytest.raises(Exception, match=r"missing\.yaml"):
        workplace.run("python -m monai.bundle run --config_file missing.yaml")


def test_a_command_that_must_fail_must_fail_with_that_message(workplace: Workplace) -> None:
    command = "python -m monai.bundle run --config_file missing.yaml"
    workplace.run_in_vain(command, "Cannot find ... missing.yaml")
    with pytest.raises(AssertionError, match="not part of the message"):
        workplace.run_in_vain(command, "Something else")
    with pytest.raises(AssertionError, match="should have failed"):
        workplace.run_in_vain("true", "")
