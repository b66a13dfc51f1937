"""The status file: written by one, read by anyone, and what is called trouble."""

from __future__ import annotations

import math
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from mvc.daemon import status
from mvc.daemon.status import Board, Curve, health
from mvc.errors import LockHeld
from mvc.store.layout import Layout
from mvc.types import CurvePoint, StepReport
from mvc.watching import WatchStatus
from tests.processes import in_process

START = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def at(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def report(step: int, loss: float = 2.5) -> StepReport:
    return StepReport(CurvePoint(step, 100 + step, loss, 2e-4, 0.5), 12, 1234.0, 8_000_000, 3.0)


def test_what_is_written_is_read(at: Layout, clock: Clock) -> None:
    heard: list[WatchStatus] = []
    with Board(at, Path("/inbox"), clock, heard.append) as board:
        board.update(state="training", batch="monday.jsonl")
        board.queue(["tuesday.jsonl", "wednesday.jsonl"])
        board.event("a fact", num_failures=1)
        told = status.read(at)
    assert told is not None
    assert told == heard[-2]  # the last word but the good-bye
    assert (told.state, told.batch, told.num_queued) == ("training", "monday.jsonl", 2)
    assert (told.pid, told.inbox, told.root) == (os.getpid(), "/inbox", str(at.root))
    assert [(event.time, event.text) for event in told.events] == [(START, "a fact")]
    assert heard[-1].state == "stopped"


def test_steps_are_published_once_a_second_and_events_at_once(
    at: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = [0.0]
    monkeypatch.setattr("mvc.daemon.status.time.monotonic", lambda: ticks[0])
    heard: list[WatchStatus] = []
    with Board(at, Path("/inbox"), clock, heard.append) as board:
        for step in range(1, 101):
            ticks[0] += 0.1
            board.step(report(step))
        assert 9 <= len(heard) - 1 <= 11
        assert board.status.step == 100
        before = len(heard)
        board.event("now")
        assert len(heard) == before + 1
        board.queue([])  # as it was
        assert len(heard) == before + 1


def test_a_loss_that_is_no_number_leaves_a_file_that_can_be_read(at: Layout, clock: Clock) -> None:
    with Board(at, Path("/inbox"), clock) as board:
        board.step(report(1, math.nan))
        board.step(report(2, math.inf))
        board.event("both")
        told = status.read(at)
    assert told is not None
    assert (told.step, told.loss, told.losses) == (2, None, ())


def test_names_that_are_no_text_are_told_all_the_same(at: Layout, clock: Clock) -> None:
    with Board(at, Path("/inbox"), clock) as board:
        board.queue([os.fsdecode(b"a\xff.jsonl"), "b\x1b[31m.jsonl"])
        told = status.read(at)
    assert told is not None
    assert told.queue == (
        "a\N{REPLACEMENT CHARACTER}.jsonl",
        "b\N{REPLACEMENT CHARACTER}[31m.jsonl",
    )


def test_a_full_disk_does_not_end_the_daemon(
    at: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[WatchStatus] = []
    with Board(at, Path("/inbox"), clock, heard.append) as board:
        with monkeypatch.context() as full:

            def write(self: Path, data: bytes) -> int:
                raise OSError(28, "No space left on device")

            full.setattr(Path, "write_bytes", write)
            board.update(state="waiting for disk")
        assert heard[-1].state == "waiting for disk"
        before = status.read(at)
        assert before is not None
        assert before.state == "starting"
        board.update(state="idle")
        after = status.read(at)
        assert after is not None
        assert after.state == "idle"


def test_readers_see_whole_files_only(at: Layout, clock: Clock) -> None:
    seen: list[WatchStatus | None] = []
    with Board(at, Path("/inbox"), clock) as board:
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(status.read(at))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(100):
            board.queue([f"{number}-{i}.jsonl" for i in range(50)])
        done.set()
        reader.join()
    assert len(seen) > 10
    assert None not in seen


def test_a_second_daemon_is_refused_by_name(at: Layout, clock: Clock) -> None:
    with Board(at, Path("/inbox"), clock):
        with pytest.raises(LockHeld, match=f"`mvc watch /inbox`, process {os.getpid()}") as caught:
            in_process(lambda: Board(at, Path("/other"), clock).__enter__() and None)
        assert "mvc watch --status" in caught.value.hint
        told = status.read(at)
        assert told is not None
        assert told.inbox == "/inbox"
    in_process(lambda: Board(at, Path("/other"), clock).__enter__() and None)


def test_trouble(at: Layout, clock: Clock) -> None:
    assert health(at, clock()).trouble == "no daemon has run here yet"
    with Board(at, Path("/inbox"), clock) as board:
        board.update(state="training")
        board.step(report(1))
        board.event("x")
        fine = health(at, clock.move(2))
        assert (fine.trouble, fine.seconds_since_step) == (None, 2.0)
        assert fine.daemon is not None
        hangs = health(at, clock.move(status.STALE_S))
        assert hangs.trouble == "nothing was heard of the daemon for 15 minutes"
        board.update(state="training", phase="Loading the model")
        assert health(at, clock.move(2 * status.STALE_S)).trouble is None
        assert "for 75 minutes" in (health(at, clock.move(3 * status.STALE_S)).trouble or "")
        board.update(state="paused", phase="")
        assert health(at, clock.move(10 * status.STALE_S)).trouble is None
        board.update(state="waiting", why="the base model is gone")
        assert health(at, clock()).trouble == "the base model is gone"
    ended = health(at, clock())
    assert ended.daemon is None
    assert "the last one ended at 2026-11-24 07:00" in (ended.trouble or "")


def test_a_daemon_that_was_killed_is_told_as_dead(at: Layout, clock: Clock) -> None:
    # The child ends without leaving the context, as by SIGKILL: only the kernel knows.
    in_process(lambda: Board(at, Path("/inbox"), clock).__enter__() and None)
    assert "the last one died at 2026-11-24 03:00:00" in (health(at, clock()).trouble or "")


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b"\xff", b'{"root": 3}'])
def test_a_file_of_another_version_is_no_status(at: Layout, text: bytes) -> None:
    at.watch.mkdir(parents=True)
    status.file(at).write_bytes(text)
    assert status.read(at) is None


def test_the_curve_keeps_the_last_hours_in_few_points() -> None:
    curve = Curve(hours=6, most=240)
    for second in range(0, 10 * 3600, 2):
        curve.add(START + timedelta(seconds=second), second / 3600)
        if second % 90 == 0:
            assert len(curve.points(UTC)) <= 240
    points = curve.points(UTC)
    last = START + timedelta(hours=10)
    assert len(points) > 100
    assert last - timedelta(hours=6, minutes=3) < points[0].time < last - timedelta(hours=5.9)
    assert points[-1].time <= last + timedelta(minutes=2)
    assert list(points) == sorted(points, key=lambda point: point.time)
    # A point is the mean of its stretch: here the time in its middle.
    for point in points[:-1]:
        assert point.loss == pytest.approx((point.time - START).total_seconds() / 3600, abs=0.001)


def test_the_curve_begins_with_every_step() -> None:
    curve = Curve()
    for second in range(30):
        curve.add(START + timedelta(seconds=second), float(second))
    assert [point.loss for point in curve.points(UTC)] == [float(second) for second in range(30)]


def test_every_field_goes_through_the_file(at: Layout, clock: Clock) -> None:
    from tests.render.samples import WATCH

    with Board(at, Path("/inbox"), clock) as board:
        fields = {name: getattr(WATCH, name) for name in WATCH.__slots__ if name != "losses"}
        board.update(**fields)
        told = status.read(at)
    assert told == replace(WATCH, losses=(), written=START)
