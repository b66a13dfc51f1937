"""What is remembered of a line's batches: the same answers as without, from fewer commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvc.store import history
from mvc.types import Commit
from tests.conftest import Line
from tests.store.test_history import line

__all__ = ["line"]


def test_a_batch_is_found_alike_whatever_was_remembered(line: Line) -> None:
    """From each commit to each other: after a rollback, on another branch, with a damaged file."""
    wanted = [f"{number:032}" for number in range(1, 6)]
    revs = [each.commit for each in history.every(line.root)]

    def told(rev: str) -> list[str | None]:
        found = [history.find_batch(line.root, md5, rev) for md5 in wanted]
        return [None if each is None else each.commit for each in found]

    fresh = {rev: told(rev) for rev in revs}
    assert len(set(map(tuple, fresh.values()))) > 2
    remembered = line.root / ".mvc" / "batches.json"
    remembered.parent.mkdir()
    for before in revs:
        for rev in revs:
            told(before)
            assert remembered.exists()
            assert told(rev) == fresh[rev]
    remembered.write_text(remembered.read_text()[:-9])
    assert told(revs[0]) == fresh[revs[0]]


def test_what_was_remembered_is_not_read_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    (line.root / ".mvc").mkdir()
    head = history.commit(line.root).commit
    assert history.find_batch(line.root, f"{1:032}") is not None
    asked = []

    def heard(root: Path, rev: str, limit: int | None = None) -> list[Commit]:
        asked.append(limit)
        return log(root, rev, limit)

    log = history.log
    monkeypatch.setattr(history, "log", heard)
    assert history.find_batch(line.root, f"{1:032}", head) is not None
    assert asked == [16, 1]
