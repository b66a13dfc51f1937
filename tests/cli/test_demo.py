"""The demo's data and its refusal; the whole of it is a slow end-to-end test elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvc.cli import demo
from mvc.cli import main as boundary


def test_the_data_is_the_same_every_time_and_no_row_twice() -> None:
    first, again = dict(demo.batches()), dict(demo.batches())
    assert first == again
    assert list(first) == list(demo.DAYS)
    rows = [row for day in first.values() for row in day]
    assert len(rows) == len(set(rows)) == 3 * demo.ROWS
    shortest, longest = demo.ROW_CHARACTERS
    assert all(shortest <= len(row) <= longest for row in rows)


def test_an_existing_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boundary.run(["demo", str(tmp_path)]) == 1
    assert "mvc demo" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
