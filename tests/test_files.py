# SPDX-License-Identifier: Apache-2.0
"""Files are whole or not there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from custom.files import remove_abandoned, temporary_file, write_atomically


def test_what_was_there_stays_when_writing_fails(tmp_path):
    file = write_atomically(tmp_path / "deep" / "a.txt", lambda path: path.write_text("first"))

    def half(path):
        path.write_text("sec")
        raise RuntimeError("disk full")

    with pytest.raises(OSError, match=r"a\.txt: could not be written \(disk full\)"):
        write_atomically(file, half)
    assert file.read_text() == "first"
    assert [each.name for each in file.parent.iterdir()] == ["a.txt"]


def test_the_temporary_name_keeps_the_ending(tmp_path):
    names = []
    write_atomically(tmp_path / "a.png", lambda path: names.append(path.name) or path.write_bytes(b"x"))
    assert names[0].endswith(".a.png")


def test_what_is_being_written_is_not_abandoned(tmp_path):
    with temporary_file(tmp_path / "a.txt") as temporary:
        assert remove_abandoned(tmp_path) == 0
        assert temporary.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from custom.files import write_atomically
        def die(path):
            path.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(Path({str(tmp_path)!r}) / "a.txt", die)
    """)
    killed = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert killed.returncode != 0
    assert len(list(tmp_path.iterdir())) == 1
    write_atomically(tmp_path / "other.txt", lambda path: path.write_text("x"))
    assert len(list(tmp_path.iterdir())) == 2  # another file's leftovers are not its business
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("whole"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.txt", "other.txt"]
