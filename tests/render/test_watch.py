"""The screen of `mvc watch` at the sizes of real terminals, and the answer of `--status`."""

from __future__ import annotations

import io
import time
from datetime import timedelta

import pytest
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from mvc.render import watch
from mvc.watching import WatchHealth, WatchStatus
from tests.render import samples as s
from tests.render.test_progress import Terminal
from tests.render.test_render import text

FRESH = WatchStatus("/home/ada/my-model", "/data/inbox", 4711, "box", since=s.NOW, written=s.NOW)
LOADING = replace(FRESH, state="training", phase="Loading the base model")
DISK = replace(
    s.WATCH,
    state="waiting for disk",
    why="3.2 GB of disk are free, watch.min_free_gb asks for 5",
    num_queued=0,
    queue=(),
    events=(),
)


def drawn(value: WatchStatus, width: int, height: int) -> str:
    return text([watch.screen(value, now=s.NOW, width=width, height=height)], width)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
@pytest.mark.parametrize(
    "value", [s.WATCH, FRESH, LOADING, DISK], ids=["training", "fresh", "loading", "disk"]
)
def test_screen(value: WatchStatus, width: int, height: int, snapshot: SnapshotAssertion) -> None:
    told = drawn(value, width, height)
    rows = told.splitlines()
    assert len(rows) == height
    assert max(map(len, rows)) <= width
    assert told == snapshot


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_the_screen_has_all_that_issue_4_asks_for(width: int, height: int) -> None:
    told = drawn(s.WATCH, width, height)
    for part in ("━━━", "57/119", "Loss 2.3141", "112 files", "┤", "Committed @49", "f927396289"):
        assert part in told
    assert told.index("Committed @48") < told.index("Committed @49")


@pytest.mark.parametrize("width", [20, 40, 79, 119, 120, 300])
@pytest.mark.parametrize("height", [1, 3, 10, 15, 24, 80])
def test_no_size_breaks_it(width: int, height: int) -> None:
    for value in (s.WATCH, FRESH, DISK, replace(s.WATCH, losses=s.WATCH.losses[:1], num_steps=0)):
        rows = drawn(value, width, height).splitlines()
        assert len(rows) <= height
        assert max(map(len, rows)) <= width


def test_wide_letters_and_long_words_stay_in_their_line() -> None:
    from rich.cells import cell_len

    value = replace(s.WATCH, batch="訓練資料" * 20 + ".jsonl", why="x" * 500, state="waiting")
    for row in drawn(value, 80, 24).splitlines():
        assert cell_len(row) <= 80


@pytest.mark.parametrize(
    ("name", "health"),
    [
        ("training", s.HEALTH),
        ("fresh", replace(s.HEALTH, status=FRESH, seconds_since_step=None)),
        ("loading", replace(s.HEALTH, status=LOADING, seconds_since_step=None)),
        ("disk", replace(s.HEALTH, status=DISK, trouble=DISK.why)),
        ("paused", replace(s.HEALTH, status=replace(s.WATCH, state="paused"))),
        ("dead", replace(s.HEALTH, daemon=None, trouble="no daemon lives; the last one died")),
        ("silent", replace(s.HEALTH, status=None, seconds_since_step=None)),
        ("never", WatchHealth(None, None, None, "no daemon has run here yet")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_status(name: str, health: WatchHealth, snapshot: SnapshotAssertion) -> None:
    assert text(watch.status(health, now=s.NOW), 100) == snapshot(name=name)


def test_the_ends_of_a_day() -> None:
    told = text(watch.ended(s.WATCH), 100).splitlines()
    assert told[0] == "Trained 42 batches, 1 file failed in 3d02h"
    assert "/data/inbox/failed/" in told[1]
    assert "--resume" in text(watch.paused(None))
    assert "Paused `mvc watch" in text(watch.paused(s.HEALTH.daemon))
    assert "Goes on: `mvc watch" in text(watch.resumed(s.HEALTH.daemon))


def test_a_terminal_is_drawn_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    assert watch.fits(file)
    with watch.Screen(file, lambda: s.NOW + timedelta(seconds=1)) as screen:
        screen.show(s.WATCH)
        until = time.monotonic() + 10
        while "57/119" not in file.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
        told = file.getvalue()
    assert told.startswith("\x1b[?1049h")
    assert "57/119" in told
    assert "last step 3.0s ago" in told
    assert "\x1b[?1049l" in file.getvalue()


def test_what_is_no_terminal_gets_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not watch.fits(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not watch.fits(Terminal())
