"""Tracked files with whatever names git takes, and as many of them as it takes."""

from __future__ import annotations

import os

from mvc.store import tracked
from mvc.store.layout import Layout
from tests.conftest import Line

ODD = (
    '"quoted"',
    "back\\slash",
    "two\nlines",
    '"both\r\n\\n"',
    "-dash",
    " spaces ",
    "line\u2028end",
    "*.txt",
    ":(top)x",
    os.fsdecode(b"latin-\xe9"),
)


def fill(line: Line, names: tuple[str, ...] | list[str], text: str) -> str:
    for name in names:
        path = line.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    line.git("add", "-A")
    line.git("commit", "-q", "--allow-empty", "-m", text)
    return line.git("rev-parse", "HEAD")


def test_odd_names_come_and_go(new_line: Line) -> None:
    root = new_line.root
    start = fill(new_line, ["plain"], "start")
    made = fill(new_line, ODD, "made")
    changed = fill(new_line, ODD[::2], "changed")
    assert {change.path for change in tracked.changes(root, start, made)} == set(ODD)
    assert tracked.foreign(root, tracked.changes(root, made, changed)) == (set(), set())
    (root / ODD[2]).write_text("the user's")
    assert tracked.foreign(root, tracked.changes(root, made, changed)) == ({ODD[2]}, set())
    (root / ODD[2]).write_text("changed")
    for old, new in ((changed, made), (made, start), (start, changed)):
        new_line.git("update-ref", "HEAD", new)
        tracked.bring(Layout(root), old, new)
        assert new_line.git("status", "--porcelain") == ""
    here = {path.name for path in root.iterdir()} - {".git", ".mvc"}
    assert here == {"plain", *ODD}


def test_more_names_than_a_program_may_be_given(new_line: Line) -> None:
    names = [f"{number:0240}" for number in range(os.sysconf("SC_ARG_MAX") // 240)]
    made = fill(new_line, names, "made")
    changed = tracked.changes(new_line.root, None, made)
    assert len(changed) == len(names)
    assert tracked.foreign(new_line.root, changed) == (set(), set())
