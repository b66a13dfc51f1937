"""Progress in a pipe and in a terminal."""

from __future__ import annotations

import io

import pytest

from mvc.render.progress import Bars, Lines, progress
from mvc.types import CurvePoint, StepReport

REPORT = StepReport(CurvePoint(12, 131, 2.31412, 2e-4, 0.5), 119, 1234.4, 812_000_000, 62.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_plain_line_a_step() -> None:
    file = io.StringIO()
    display = progress(file)
    assert isinstance(display, Lines)
    display.stage("Loading the base model")
    display.start("monday.jsonl", 119, 11)
    display.step(REPORT)
    display.note("3 rows were cut")
    display.stop()
    assert file.getvalue().splitlines() == [
        "Loading the base model",
        "Training monday.jsonl: 119 steps, from step 11",
        "step 12/119  Loss 2.3141  rate 2.0e-04  1234 tok/s  812 MB  1m02s left",
        "3 rows were cut",
    ]


def test_a_pipe_gets_a_line_each_tenth_of_a_transfer() -> None:
    file = io.StringIO()
    display = Lines(file)
    for done in range(0, 2_000_001, 50_000):
        display.transfer("Sending 3 objects", done, 2_000_000)
    display.stop()
    display.transfer("Sending 0 objects", 0, 0)
    told = file.getvalue().splitlines()
    assert len(told) == 12
    assert told[0] == "Sending 3 objects: 0 B of 2.0 MB (0 %)"
    assert told[5] == "Sending 3 objects: 1.0 MB of 2.0 MB (50 %)"
    assert told[-1] == "Sending 0 objects: 0 B of 0 B (100 %)"


@pytest.mark.parametrize("columns", ["60", "120"])
def test_a_terminal_gets_a_bar_in_bytes(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    display = Bars(file)
    for done in (0, 1_000_000, 2_000_000):
        display.transfer("Sending 3 objects", done, 2_000_000)
    display.stop()
    told = file.getvalue()
    assert "Sending 3 objects" in told
    assert "2.0/2.0 MB" in told


@pytest.mark.parametrize("columns", ["80", "140"])
def test_a_terminal_gets_a_bar(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    display = progress(file)
    assert isinstance(display, Bars)
    display.stage("Loading the base model")
    display.start("monday.jsonl", 119, 0)
    display.step(REPORT)
    display.note("3 rows were cut")
    display.stop()
    display.stop()
    told = file.getvalue()
    for part in ("monday.jsonl", "12/119", "Loss 2.3141", "1m02s left", "3 rows were cut"):
        assert part in told
    assert ("812 MB" in told) is (columns == "140")
