"""The daemon's log: a file a day, a line a step, whatever happens to the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mvc.daemon.logs import DaemonProgress, DayFile, Onward
from mvc.errors import DataError, LockHeld, StoreError
from mvc.store.layout import Layout
from mvc.types import BatchResult
from mvc.watching import WatchStatus
from tests.cli import fakes
from tests.daemon.test_status import Clock, report
from tests.ops.conftest import Heard
from tests.render import samples as s

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def at(tmp_path: Path) -> Layout:
    return Layout(fakes.empty_repo(tmp_path / "model"))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = datetime(2026, 11, 24, 23, 59, 58, tzinfo=BERLIN)
    return clock


def told(at: Layout, day: str) -> list[str]:
    return (at.logs / f"daemon_{day}.log").read_text().splitlines()


@contextlib.contextmanager
def telling(at: Layout, clock: Clock, **more: object) -> Iterator[DaemonProgress]:
    with DaemonProgress(at, Path("/inbox"), clock=clock, **more) as progress:  # type: ignore[arg-type]
        yield progress


def test_a_line_a_step_and_a_file_a_day(at: Layout, clock: Clock) -> None:
    heard = Heard()
    with telling(at, clock, onward=heard) as progress:
        progress.stage("Loading the base model")
        assert progress.board.status.phase == "Loading the base model"
        progress.start("monday.jsonl", 12, 3)
        assert progress.board.status.phase == ""
        for step in range(4, 9):
            progress.step(report(step))
            clock.move(1)
        progress.note("3 rows were cut")
        progress.stop()
    first, second = told(at, "20261124"), told(at, "20261125")
    assert first[1:] == [
        "2026-11-24T23:59:58+01:00 INFO    Loading the base model",
        "2026-11-24T23:59:58+01:00 INFO    Training monday.jsonl: 12 steps, from step 3",
        "2026-11-24T23:59:58+01:00 INFO    step 4/12  Loss 2.5000  rate 2.0e-04  1234 tok/s  "
        "0.0 GB  lifetime step 104",
        "2026-11-24T23:59:59+01:00 INFO    step 5/12  Loss 2.5000  rate 2.0e-04  1234 tok/s  "
        "0.0 GB  lifetime step 105",
    ]
    assert f"process {os.getpid()} watches /inbox" in first[0]
    assert second[0].startswith("2026-11-25T00:00:00+01:00 INFO    step 6/12  Loss")
    assert [line.split("INFO    ")[1] for line in second[-2:]] == ["3 rows were cut", "Ended"]
    assert (heard.starts, heard.notes) == ([("monday.jsonl", 12, 3)], ["3 rows were cut"])
    assert len(heard.points) == 5


def test_what_a_person_types_shows_the_losses(at: Layout, set_zone: object) -> None:
    """`tail -f` with today's `date`, as issue 4 says."""
    set_zone("Europe/Berlin")  # type: ignore[operator]
    with DaemonProgress(at, Path("/inbox")) as progress:
        for step in range(3):
            progress.step(report(step))
    shown = subprocess.run(
        "tail -n 99 logs/daemon_$(date +%Y%m%d).log | grep Loss",
        shell=True,
        cwd=at.root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(shown) == 3
    assert all(re.search(r"step \d/12  Loss 2\.5000 ", line) for line in shown)


def test_the_day_is_the_repos(at: Layout, clock: Clock) -> None:
    at.config.write_text('[base]\nmodel = "tiny"\n\n[snapshot]\nzone = "Pacific/Kiritimati"\n')
    with DaemonProgress(at, Path("/inbox")) as progress:
        assert (
            progress.board.status.since.utcoffset()
            == datetime.now(ZoneInfo("Pacific/Kiritimati")).utcoffset()
        )
        at.config.write_text('[base]\nmodel = "tiny"\n\n[snapshot]\nzone = "UTC"\n')
        progress.start("monday.jsonl", 1, 0)
        progress.note("x")
        assert progress.board.status.written.utcoffset() == UTC.utcoffset(None)


def test_no_name_can_break_a_line_or_reach_the_terminal(at: Layout, clock: Clock) -> None:
    with telling(at, clock) as progress:
        progress.note(f"a\x1b[31mb\rc{os.fsdecode(bytes([255]))}d")
        progress.note("one\ntwo 100% {x} %s")
    lines = [line.split("INFO    ")[1] for line in told(at, "20261124")[1:]]
    assert lines == ["a�[31mb", "c�d", "one", "two 100% {x} %s", "Ended"]


def test_a_full_disk_loses_lines_and_says_how_many(
    at: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(handle: int, data: bytes) -> int:
        return real(handle, data[: len(data) // 2])  # what a file system does on its last block

    def none(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with telling(at, clock) as progress:
        monkeypatch.setattr("mvc.daemon.logs.os.write", full)
        progress.note("the first that is cut")
        monkeypatch.setattr("mvc.daemon.logs.os.write", none)
        progress.step(report(1))
        progress.step(report(2))
        monkeypatch.setattr("mvc.daemon.logs.os.write", real)
        progress.note("room again")
    lines = [line[34:] for line in told(at, "20261124")]
    assert lines[-3:] == ["3 records before this one were lost", "room again", "Ended"]
    assert all(re.match(r"2026-11-24T", line) for line in told(at, "20261124"))


def test_a_log_that_is_taken_away_begins_anew(at: Layout, clock: Clock) -> None:
    with telling(at, clock) as progress:
        progress.note("one")
        (at.logs / "daemon_20261124.log").unlink()
        progress.note("two")
        (at.logs / "daemon_20261124.log").unlink()
        at.logs.rmdir()
        progress.note("three")
    assert [line.split("    ")[-1] for line in told(at, "20261124")] == ["three", "Ended"]


def test_a_link_is_not_followed(at: Layout, clock: Clock, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    at.logs.mkdir()
    (at.logs / "daemon_20261124.log").symlink_to(precious)
    with telling(at, clock) as progress:
        progress.note("x")
    assert precious.read_text() == "mine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    handler = DayFile(tmp_path / "link", clock)
    (tmp_path / "link").symlink_to(elsewhere)
    import logging

    handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert not list(elsewhere.iterdir())


def test_commits_failures_and_snapshots_reach_log_and_status(at: Layout, clock: Clock) -> None:
    heard = Heard()
    with telling(at, clock, onward=heard) as progress:
        progress.committed(BatchResult(s.FOUR))
        progress.failed("bad.jsonl", "line 3 is no JSON", Path("/inbox/failed/bad.why.txt"))
        progress.failed("x.csv", "x.csv, line 3: no row")
        progress.pinned(s.PIN)
        progress.warn("a loose cable")
        now = progress.board.status
    assert (now.num_batches, now.num_failures) == (1, 2)
    assert now.last_commit is not None
    assert (now.last_commit.short, now.last_commit.batch) == (s.FOUR.short, 3)
    assert now.last_failure is not None
    assert (now.last_failure.file, now.last_failure.why) == ("x.csv", "x.csv, line 3: no row")
    assert now.last_snapshot is not None
    assert now.last_snapshot.day == "2026-11-20"
    assert [event.text for event in now.events] == heard.notes
    log = "\n".join(told(at, "20261124"))
    assert "INFO    Committed @3" in log
    assert "loss 2.131 → 1.984, 252 s" in log
    assert "ERROR   Failed: bad.jsonl: line 3 is no JSON (see /inbox/failed/bad.why.txt)" in log
    assert "ERROR   Failed: x.csv, line 3: no row\n" in log
    assert "INFO    Pinned snapshot/2026-11-20" in log
    assert "WARNING a loose cable" in log


def test_a_state_is_told_when_it_changes(at: Layout, clock: Clock) -> None:
    heard = Heard()
    with telling(at, clock, onward=heard) as progress:
        for _ in range(3):
            progress.state("waiting for disk", "1.0 GB are free")
        for _ in range(3):
            progress.state("idle")
        assert (progress.board.status.state, progress.board.status.why) == ("idle", "")
    assert heard.notes == ["Waiting for disk: 1.0 GB are free", "Idle"]
    assert sum("WARNING" in line for line in told(at, "20261124")) == 1


def test_it_begins_with_what_the_line_has(line: Path, clock: Clock) -> None:
    with telling(Layout(line), clock) as progress:
        now = progress.board.status
    assert now.last_commit is not None
    assert now.last_commit.batch == 4
    assert now.last_snapshot is not None
    assert now.last_snapshot.day == "2026-11-20"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.line_repo(tmp_path_factory.mktemp("line") / "model")


def test_its_end_is_told_with_its_reason(at: Layout, clock: Clock) -> None:
    with pytest.raises(DataError), telling(at, clock):
        raise DataError("the inbox is a file", "name a folder")
    assert told(at, "20261124")[-1].endswith("ERROR   Ended: the inbox is a file. name a folder")
    with pytest.raises(ZeroDivisionError), telling(at, clock):
        raise ZeroDivisionError("1/0")
    lines = told(at, "20261124")
    assert any(line.endswith("ERROR   Ended by a bug of ours") for line in lines)
    assert lines[-1].endswith("ZeroDivisionError: 1/0")


def scraped(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.split() for line in lines if not line.startswith("#"))
    }


def test_prometheus_reads_the_status(at: Layout, clock: Clock) -> None:
    with telling(at, clock, metrics_port=0) as progress:
        (url,) = re.findall(r"Metrics are at (\S+)", "\n".join(told(at, "20261124")))
        assert url.startswith("http://127.0.0.1:")
        before = scraped(url)
        assert "mvc_loss" not in before
        assert before["mvc_batches_total"] == 0
        progress.start("monday.jsonl", 12, 0)
        progress.step(report(7))
        progress.queue(["a", "b"])
        progress.committed(BatchResult(s.FOUR))
        progress.failed("bad.jsonl", "why")
        progress.state("paused")
        after = scraped(url)
    assert after["mvc_loss"] == 2.5
    assert (after["mvc_lifetime_step"], after["mvc_batch_step"]) == (107, 7)
    assert (after["mvc_queue_files"], after["mvc_paused"]) == (2, 1)
    assert (after["mvc_batches_total"], after["mvc_failures_total"]) == (1, 1)
    assert after["mvc_last_step_timestamp_seconds"] == clock.now.timestamp()
    assert after["mvc_last_commit_timestamp_seconds"] == s.FOUR.time.timestamp()
    assert after["mvc_disk_free_bytes"] > 0
    with pytest.raises(OSError, match="refused"):
        scraped(url)


def test_a_port_that_is_taken_lets_go_of_everything(
    at: Layout, clock: Clock, tmp_path: Path
) -> None:
    other = Layout(fakes.empty_repo(tmp_path / "other"))
    with telling(at, clock, metrics_port=0):
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)", "\n".join(told(at, "20261124")))
        with pytest.raises(StoreError, match=f"port {port}") as caught:
            DaemonProgress(other, Path("/inbox"), metrics_port=int(port)).__enter__()
        assert "--metrics" in caught.value.hint
    with telling(other, clock):
        pass  # its lock is free


def test_a_second_daemon_leaves_the_first_ones_log_and_status_alone(
    at: Layout, clock: Clock
) -> None:
    heard: list[WatchStatus] = []
    with telling(at, clock, on_status=heard.append):
        before = told(at, "20261124"), json.dumps(len(heard))
        with pytest.raises(LockHeld), telling(at, clock):
            pass
        assert (told(at, "20261124"), json.dumps(len(heard))) == before


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    class Gone(Heard):
        asked = 0

        def note(self, text: str) -> None:
            self.asked += 1
            raise OSError(errno.EIO, "Input/output error")

    gone = Gone()
    onward = Onward(gone)
    onward.note("one")
    onward.note("two")
    assert gone.asked == 1
