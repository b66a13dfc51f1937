"""The demo: its data, its refusal, and the whole of it on the real 135M model, with fewer rows."""

from __future__ import annotations

import json
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


@pytest.mark.slow
def test_the_whole_demo_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ROWS", 16)
    monkeypatch.chdir(tmp_path)
    assert boundary.run(["demo"]) == 0
    said = capsys.readouterr().out
    for verb in ("init", "train", "log", "snapshot", "log --plot", "checkout", "rollback", "fsck"):
        assert f"$ mvc {verb}" in said
    assert "rolled back to @2" in said
    assert "All is well: 5 commits" in said
    monkeypatch.chdir("demo-model")
    assert boundary.run(["log", "--json"]) == 0
    commits = json.loads(capsys.readouterr().out)
    assert [c["batch"] for c in commits] == [None, 3, 2, 1, 0]
    assert [c["steps"] for c in commits if c["kind"] == "batch"] == [2, 2, 2]
    assert all(c["loss"]["last"] < 6 for c in commits if c["kind"] == "batch")
