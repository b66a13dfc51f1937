"""The inbox: what is whole, in which order, and where it goes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mvc.daemon import inbox as inboxes
from mvc.daemon.inbox import Inbox, check_place
from mvc.errors import DataError, DiskFull, StoreError, UsageError
from mvc.settings import WatchSettings
from mvc.store.layout import Layout

New = Callable[..., Inbox]
BERLIN = ZoneInfo("Europe/Berlin")
BROKEN = DataError("a.jsonl, line 3: not JSON", "mend the line")


class Clock:
    """Stands in for `time`: ours goes only when told, and the wall's may differ from a file's."""

    def __init__(self) -> None:
        self.passed, self.ahead = 0.0, 0.0

    def monotonic(self) -> float:
        return self.passed

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(inboxes, "time", made)
    return made


@pytest.fixture
def new_inbox(tmp_path: Path) -> New:
    def new_inbox(**settings: object) -> Inbox:
        (tmp_path / "in").mkdir(exist_ok=True)
        return Inbox(tmp_path / "in", WatchSettings(**settings), BERLIN)  # type: ignore[arg-type]

    return new_inbox


def put(inbox: Inbox, name: str, text: str = "{}\n") -> Path:
    """Write a file by its own name, as `cp` does."""
    path = inbox.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def move_in(inbox: Inbox, name: str) -> Path:
    """Write a file elsewhere and rename it into place."""
    half = inbox.folder.parent / "half"
    half.write_text("{}\n")
    time.sleep(0.02)  # the kernel's clock for files ticks every 4 to 10 ms
    return half.rename(inbox.folder / name)


def names(inbox: Inbox) -> list[str]:
    return [path.name for path in inbox.ready()]


# --- what is whole ------------------------------------------------------------------------------


def test_a_written_file_must_rest(new_inbox: New, clock: Clock) -> None:
    inbox = new_inbox(settle_seconds=60)
    path = put(inbox, "a.jsonl")
    assert names(inbox) == []
    clock.passed = 59
    with path.open("a") as file:
        file.write("{}\n")
    assert names(inbox) == []
    clock.passed = 118
    assert names(inbox) == []
    clock.passed = 119
    assert names(inbox) == ["a.jsonl"]


def test_a_renamed_file_is_taken_after_a_second(new_inbox: New, clock: Clock) -> None:
    inbox = new_inbox(settle_seconds=3600)
    move_in(inbox, "a.jsonl")
    assert names(inbox) == []
    clock.passed = 1
    assert names(inbox) == ["a.jsonl"]


def test_a_renamed_file_that_grows_is_left_alone(new_inbox: New, clock: Clock) -> None:
    inbox = new_inbox(settle_seconds=60)
    path = move_in(inbox, "a.jsonl")
    for clock.passed in range(10):
        path.write_text("{}\n" * int(clock.passed + 2))
        assert names(inbox) == []


def test_an_old_file_needs_no_long_rest_after_a_restart(new_inbox: New, clock: Clock) -> None:
    put(new_inbox(), "a.jsonl")
    clock.ahead = 3600
    inbox = new_inbox(settle_seconds=3600)
    assert names(inbox) == []
    clock.passed = 1
    assert names(inbox) == ["a.jsonl"]


def test_a_file_that_grows_under_a_file_server_s_slow_clock_is_left_alone(
    new_inbox: New, clock: Clock
) -> None:
    inbox = new_inbox(settle_seconds=30)
    clock.ahead = 600  # to us, whatever the server writes is ten minutes old
    path = put(inbox, "a.jsonl")
    for clock.passed in range(20):
        path.write_text("{}\n" * int(clock.passed + 2))
        assert names(inbox) == []


def test_a_file_server_s_fast_clock_does_not_hold_a_file_for_ever(
    new_inbox: New, clock: Clock
) -> None:
    inbox = new_inbox(settle_seconds=30)
    clock.ahead = -600
    put(inbox, "a.jsonl")
    assert names(inbox) == []
    clock.passed = 30
    assert names(inbox) == ["a.jsonl"]


@pytest.mark.parametrize(
    "name", [".a.jsonl", "~a.jsonl", "a.jsonl~", "a.jsonl.tmp", "a.PART", "a.jsonl.crdownload"]
)
def test_what_is_not_meant_yet_is_left_alone(new_inbox: New, name: str) -> None:
    inbox = new_inbox(settle_seconds=0)
    put(inbox, name)
    assert inbox.empty() and names(inbox) == []
    put(inbox, "b.jsonl")
    assert not inbox.empty() and names(inbox) == ["b.jsonl"]


def test_what_was_done_or_failed_is_not_taken_again(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0)
    inbox.done(put(inbox, "a.jsonl"))
    inbox.failed(put(inbox, "b.jsonl"), BROKEN)
    assert inbox.empty() and names(inbox) == []


def test_a_folder_is_a_batch_when_nothing_below_it_changed(new_inbox: New, clock: Clock) -> None:
    inbox = new_inbox(settle_seconds=60)
    put(inbox, "day/deep/a.jsonl")
    assert names(inbox) == []
    clock.passed = 59
    put(inbox, "day/deep/b.jsonl")
    assert names(inbox) == []
    clock.passed = 118
    assert names(inbox) == []
    clock.passed = 119
    assert names(inbox) == ["day"]


def test_a_folder_that_is_renamed_into_place_is_taken_after_a_second(
    new_inbox: New, clock: Clock
) -> None:
    inbox = new_inbox(settle_seconds=3600)
    half = put(inbox, ".half/a.jsonl").parent
    time.sleep(0.02)
    half.rename(inbox.folder / "day")
    assert names(inbox) == []
    clock.passed = 1
    assert names(inbox) == ["day"]


def test_a_folder_that_is_empty_or_holds_half_a_download_is_left_alone(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0)
    (inbox.folder / "empty").mkdir()
    half = put(inbox, "day/a.jsonl.part")
    assert inbox.empty() and names(inbox) == []
    half.rename(half.with_suffix(""))
    assert names(inbox) == ["day"]


# --- in which order -----------------------------------------------------------------------------


def test_files_come_in_the_order_of_their_completion(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0)
    paths = [put(inbox, name) for name in ("c.jsonl", "a.jsonl", "b.jsonl")]
    for path in (paths[1], paths[0], paths[2]):
        time.sleep(0.02)
        path.write_text("{}\n")
    for path in paths:
        os.utime(path, (1_000, 1_000))  # `cp -p` keeps an old time: it says nothing
        time.sleep(0.02)
    assert names(inbox) == ["c.jsonl", "a.jsonl", "b.jsonl"]
    assert names(new_inbox(settle_seconds=0)) == names(inbox)


def test_files_come_in_the_order_of_their_names_if_so_set(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0, order="name")
    for name in ("c.jsonl", "a.jsonl", "b.jsonl"):
        put(inbox, name)
        time.sleep(0.02)
    assert names(inbox) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_file_does_not_overtake_one_that_was_completed_before(
    new_inbox: New, clock: Clock
) -> None:
    inbox = new_inbox(settle_seconds=60)
    slow = put(inbox, "slow.jsonl")
    move_in(inbox, "quick.jsonl")
    assert names(inbox) == []
    clock.passed = 2
    assert names(inbox) == []  # slow.jsonl may be whole, and was before
    slow.write_text("{}\n{}\n")
    assert names(inbox) == ["quick.jsonl"]
    clock.passed = 62
    assert names(inbox) == ["quick.jsonl", "slow.jsonl"]


# --- where it goes ------------------------------------------------------------------------------


def test_done_is_by_day_and_overwrites_nothing(new_inbox: New) -> None:
    inbox = new_inbox()
    moved = [inbox.done(put(inbox, "a.jsonl", f"{i}\n")) for i in range(3)]
    assert [path and path.name for path in moved] == ["a.jsonl", "a.2.jsonl", "a.3.jsonl"]
    assert [path and path.read_text() for path in moved] == ["0\n", "1\n", "2\n"]
    assert inbox.done(inbox.folder / "a.jsonl") is None


def test_the_day_of_done_is_the_zone_s(new_inbox: New) -> None:
    days = set()
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):  # 26 hours apart: never on one day
        inbox = new_inbox()
        inbox.zone = ZoneInfo(zone)
        moved = inbox.done(put(inbox, "a.jsonl"))
        assert moved is not None
        days.add(moved.parent.name)
    assert len(days) == 2


def test_failed_says_why_and_how_to_go_on(new_inbox: New) -> None:
    inbox = new_inbox()
    error = DataError("a b.jsonl, line 3: not JSON", "mend the line")
    error.__cause__ = ValueError("Expecting ',' \x1b[31m")
    why = inbox.failed(put(inbox, "a b.jsonl", "{\n"), error, "It was part of a batch.")
    assert why == inbox.folder / "failed" / "a b.jsonl.why.txt"
    assert why.with_name("a b.jsonl").read_text() == "{\n"
    lines = why.read_text().splitlines()
    assert lines[1] == "a b.jsonl: a b.jsonl, line 3: not JSON"
    assert lines[2] == "Caused by: ValueError: Expecting ',' \N{REPLACEMENT CHARACTER}[31m"
    assert lines[3:5] == ["mend the line", "It was part of a batch."]
    assert lines[-1] == f"To have it trained: mv '{why.with_name('a b.jsonl')}' {inbox.folder}/"


def test_failed_overwrites_nothing(new_inbox: New) -> None:
    inbox = new_inbox()
    for text in ("1\n", "2\n"):
        inbox.failed(put(inbox, "a.jsonl", text), BROKEN)
    found = {path.name: path.read_text() for path in (inbox.folder / "failed").iterdir()}
    assert sorted(found) == ["a.2.jsonl", "a.2.jsonl.why.txt", "a.jsonl", "a.jsonl.why.txt"]
    assert (found["a.jsonl"], found["a.2.jsonl"]) == ("1\n", "2\n")
    assert inbox.failed(inbox.folder / "a.jsonl", BROKEN) is None


def test_killed_before_the_move_the_text_is_written_anew(
    new_inbox: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = new_inbox()
    path = put(inbox, "a.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            inbox.failed(path, BROKEN)
    assert path.exists()
    inbox.failed(path, DataError("another reason", "x"))
    found = {each.name for each in (inbox.folder / "failed").iterdir()}
    assert found == {"a.jsonl", "a.jsonl.why.txt"}
    assert "another reason" in (inbox.folder / "failed/a.jsonl.why.txt").read_text()


def test_no_room_for_the_text_leaves_the_file_where_it_is(
    new_inbox: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = new_inbox()
    path = put(inbox, "a.jsonl")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        inbox.failed(path, BROKEN)
    assert path.exists() and not list((inbox.folder / "failed").iterdir())


@pytest.mark.parametrize("name", ["x" * 249 + ".jsonl", "ä" * 124 + ".jsonl"])
def test_the_longest_names_find_room(new_inbox: New, name: str) -> None:
    inbox = new_inbox()
    for _ in range(2):
        assert inbox.failed(put(inbox, name), BROKEN)
    assert len(list((inbox.folder / "failed").iterdir())) == 4


def test_a_name_that_is_no_text_is_moved_like_any_other(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0)
    name = os.fsdecode(b"caf\xe9.jsonl")
    put(inbox, name)
    (path,) = inbox.ready()
    why = inbox.failed(path, DataError(f"{name}: broken", "mend it"))
    assert why is not None and "caf\N{REPLACEMENT CHARACTER}.jsonl: broken" in why.read_text()


def test_a_file_that_cannot_be_moved_is_an_error(new_inbox: New) -> None:
    inbox = new_inbox()
    path = put(inbox, "a.jsonl")
    (inbox.folder / "done").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be moved") as caught:
        inbox.done(path)
    assert "done/ and failed/" in caught.value.hint and path.exists()


# --- the folder itself --------------------------------------------------------------------------


def test_without_a_folder_there_is_no_inbox(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file") as caught:
        Inbox(tmp_path / "absent", WatchSettings(), BERLIN)
    assert f"mkdir {tmp_path / 'absent'}" in caught.value.hint


def test_an_inbox_that_vanishes_is_an_error_until_it_is_back(new_inbox: New) -> None:
    inbox = new_inbox(settle_seconds=0)
    put(inbox, "a.jsonl")
    assert names(inbox) == ["a.jsonl"]
    inbox.wait(0.01)
    away = inbox.folder.rename(inbox.folder.with_name("away"))
    for look in (inbox.ready, inbox.empty):
        with pytest.raises(StoreError, match="cannot be read"):
            look()
    inbox.wait(0.01)
    away.rename(inbox.folder)
    assert names(inbox) == ["a.jsonl"]
    inbox.close()


def test_waiting_ends_when_a_file_arrives(new_inbox: New) -> None:
    inbox = new_inbox()
    inbox.wait(0.01)
    inbox.wait(0.2)
    timer, started = threading.Timer(0.2, put, (inbox, "a.jsonl")), time.monotonic()
    timer.start()
    inbox.wait(30)
    assert time.monotonic() - started < 10
    timer.join()
    inbox.close()


def test_waiting_ends_after_its_time_though_a_file_grows(new_inbox: New) -> None:
    inbox = new_inbox()
    path = put(inbox, "a.jsonl")
    stop = threading.Event()

    def grow() -> None:
        while not stop.wait(0.01):
            with path.open("a") as file:
                file.write("{}\n")

    writer = threading.Thread(target=grow)
    writer.start()
    started = time.monotonic()
    try:
        for _ in range(2):
            inbox.wait(0.5)
        waited = time.monotonic() - started
    finally:
        stop.set()
        writer.join()
        inbox.close()
    assert 0.1 < waited < 10


@pytest.mark.parametrize("name", ["", "batch/x", ".mvc", "current_model", ".git/hooks", "logs"])
def test_an_inbox_among_the_repo_s_own_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be an inbox"):
        check_place(Layout(tmp_path), tmp_path / name)


def test_an_inbox_beside_or_in_the_repo_is_none_of_our_business(tmp_path: Path) -> None:
    for folder in (tmp_path / "in", tmp_path.parent, tmp_path / ".github"):
        check_place(Layout(tmp_path), folder)
