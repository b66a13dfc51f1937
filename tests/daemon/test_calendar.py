"""The calendar under a fake clock: clock changes, downtime, quiet days; git without torch."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mvc.daemon.calendar import Calendar, due
from mvc.ops import snapshot
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import Snapshot
from tests.conftest import Line, batch, start

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Told:
    """What a DaemonProgress hears of the calendar."""

    def __init__(self) -> None:
        self.pins: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def pinned(self, pin: Snapshot) -> None:
        self.pins.append(pin.day)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Days:
    """A line, its calendar, and a clock that both stand on."""

    def __init__(self, line: Line, now: datetime) -> None:
        self.line, self.at, self.now, self.told = line, Layout(line.root), now, Told()
        self.number = 0
        self.configure()
        (line.root / ".gitignore").write_text(".mvc\n")
        line.add(start(now.isoformat()))
        self.restart()

    def configure(self, at: str = "03:00", **more: str) -> None:
        keys = {"at": at, "zone": str(BERLIN), **more}
        lines = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        self.at.config.write_text(f'[base]\nmodel = "tiny"\n[snapshot]\n{lines}')

    def restart(self) -> None:
        """The daemon died; another one is there, which remembers nothing."""
        self.calendar = Calendar(self.at, self.told, lambda: self.now)  # type: ignore[arg-type]

    def commit(self, when: datetime) -> str:
        self.number += 1
        return self.line.add(batch(self.number, when.isoformat()))[0]

    def look(self, now: datetime) -> None:
        self.now = now
        self.calendar.look()

    def pins(self) -> dict[str, str]:
        return {each.day: each.commit.commit for each in snapshot.snapshots(self.at)}


@pytest.fixture
def days(new_line: Line) -> Days:
    return Days(new_line, datetime(2026, 11, 20, 12, tzinfo=BERLIN))


def on(day: int, hour: int = 3, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=BERLIN)


# --- which days are due -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", ["00:00", "01:30", "01:45", "02:00", "02:15", "02:30", "03:00", "23:59"]
)
@pytest.mark.parametrize(
    "name",
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut"],
)
def test_every_day_is_due_once_over_every_clock_change(name: str, at: str) -> None:
    zone = ZoneInfo(name)
    since = datetime(2025, 12, 31, 23, 59, 30, tzinfo=zone)
    found = list(due(at, zone, since, since + 400 * DAY))
    first = date(2026, 1, 1)
    assert [each.day for each in found] == [str(first + i * DAY) for i in range(400)]
    # Where the clock shows the hour, that is it; where it is skipped, the moment of the jump.
    late = [each for each in found if f"{each.at:%H:%M}" != at]
    assert len(late) <= 2
    for each in late:
        before = (each.at.astimezone(UTC) - timedelta(seconds=1)).astimezone(zone)
        shown = datetime.fromisoformat(f"{each.day}T{at}")
        assert before.replace(tzinfo=None) < shown < each.at.replace(tzinfo=None)
    assert all(each.at.fold == 0 for each in found)


def test_a_cron_expression_is_due_once_a_day_at_its_first_moment() -> None:
    since = datetime(2026, 11, 20, 12, tzinfo=BERLIN)
    found = [each.at for each in due("30 6-18/4 * * mon-fri", BERLIN, since, since + 7 * DAY)]
    assert found == [on(day, 6, 30) for day in (23, 24, 25, 26, 27)]


def test_what_is_due_lies_after_the_beginning_and_not_after_the_end() -> None:
    assert [each.day for each in due("03:00", BERLIN, on(20), on(21))] == ["2026-11-21"]
    assert not list(due("03:00", BERLIN, on(20), on(21) - timedelta(seconds=1)))


def test_in_a_repeated_hour_the_first_pass_counts() -> None:
    since = datetime(2026, 10, 25, 2, 40, tzinfo=BERLIN, fold=1)
    assert not list(due("02:30", BERLIN, since, since + HOUR))
    second_pass = datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1)
    (found,) = due("02:30", BERLIN, second_pass - 12 * HOUR, second_pass)
    assert found.at.astimezone(UTC).hour == 0


# --- which commit stood then --------------------------------------------------------------------


def test_it_pins_the_last_commit_at_the_hour_and_not_a_later_one(days: Days) -> None:
    days.commit(on(21, 2, 59))
    stood = days.commit(on(21, 3, 0))
    days.commit(on(21, 3, 1))
    days.look(on(21, 3, 2))
    assert days.pins() == {"2026-11-21": stood}
    (made,) = snapshot.snapshots(days.at)
    assert made.time == on(21) and made.message.startswith("Snapshot of 2026-11-21: Batch 2")
    days.look(on(21, 9))
    assert days.told.pins == ["2026-11-21"] and not days.told.notes + days.told.warnings


def test_missed_days_are_made_at_the_start_of_the_commits_that_stood_then(days: Days) -> None:
    first, second = days.commit(on(20, 15)), days.commit(on(22, 15))
    days.commit(on(24, 15))
    days.look(on(24, 18))
    assert days.pins() == {"2026-11-21": first, "2026-11-23": second}
    assert days.told.notes == ["No snapshot of 2 days to 2026-11-24: no commit since the last one"]


def test_a_quiet_day_is_told_once_also_over_restarts(days: Days) -> None:
    days.look(on(21, 4))
    for hour in (4, 5, 6):
        days.look(on(22, hour))
        days.restart()
    days.look(on(22, 20))
    assert list(days.pins()) == ["2026-11-21"]
    assert days.told.notes == ["No snapshot of 2026-11-22: no commit since the last one"]


def test_a_day_that_somebody_pinned_by_hand_is_left_as_it_is(days: Days) -> None:
    early = days.commit(on(21, 1))
    snapshot.snapshot(days.at, "by hand", now=on(21, 1, 30))
    days.commit(on(21, 2))
    days.look(on(21, 4))
    assert days.pins() == {"2026-11-21": early}
    assert not days.told.pins + days.told.notes + days.told.warnings
    late = days.commit(on(21, 5))
    days.look(on(22, 4))
    assert days.pins() == {"2026-11-21": early, "2026-11-22": late}


def test_without_its_memory_it_goes_on_from_the_last_snapshot(days: Days) -> None:
    commits = [days.commit(on(day, 15)) for day in (20, 21, 22)]
    days.look(on(21, 4))
    (days.at.watch / "calendar.json").write_text("{")
    days.restart()
    days.look(on(23, 4))
    assert list(days.pins().values()) == commits[::-1]


def test_a_clock_that_was_ahead_does_not_silence_it(days: Days) -> None:
    days.look(on(21, 4) + 365 * DAY)
    stood = days.commit(on(21, 5))
    days.look(on(22, 4))
    assert days.pins()["2026-11-22"] == stood


def test_the_branch_that_is_checked_out_counts(days: Days) -> None:
    days.commit(on(20, 15))
    days.line.git("symbolic-ref", "HEAD", "refs/heads/other")
    other = days.line.add(start(on(20, 16).isoformat()), branch="other")[0]
    days.look(on(21, 4))
    assert days.pins() == {"2026-11-21": other}


def test_a_long_line_is_read_page_by_page(days: Days) -> None:
    days.line.add(*[batch(n, (on(20, 13) + n * HOUR / 50).isoformat()) for n in range(1, 1301)])
    days.look(on(21, 4))
    (pin,) = snapshot.snapshots(days.at)
    assert pin.commit.time <= on(21) < pin.commit.time + HOUR / 40


# --- trouble ------------------------------------------------------------------------------------


def test_another_writer_is_waited_for(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvc.daemon.calendar._WAIT_S", 0.0)
    stood = days.commit(on(21, 2))
    with Lock(days.at, "mvc push"):
        days.look(on(21, 4))
    assert not days.pins() and not days.told.warnings
    days.commit(on(21, 5))
    days.look(on(21, 6))
    assert days.pins() == {"2026-11-21": stood}


def test_trouble_is_told_once_and_tried_again(days: Days) -> None:
    days.configure(at="25:00")
    for minute in (1, 2, 3):
        days.look(on(21, 3, minute))
    (told,) = days.told.warnings
    assert told.startswith('No snapshot: mvc.toml, line 4: `snapshot.at` is "25:00"')
    days.configure()
    days.look(on(21, 4))
    assert list(days.pins()) == ["2026-11-21"]


def test_the_snapshot_is_pushed_if_so_set(days: Days) -> None:
    days.configure(push="origin")
    days.look(on(21, 4))
    days.calendar.send()
    (told,) = days.told.warnings
    assert told.startswith(
        "`mvc push origin` after the snapshot failed: Error: there is no remote"
    ) and list(days.pins()) == ["2026-11-21"]
    days.calendar.send()
    assert len(days.told.warnings) == 1


def test_it_looks_by_itself_while_the_daemon_lives(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvc.daemon.calendar._LOOK_S", 0.05)
    days.now = on(20, 13)
    with days.calendar as calendar:
        assert not days.pins()
        days.now = on(21, 4)
        for _ in range(200):
            if days.told.pins or calendar._stop.wait(0.05):
                break
    assert days.told.pins == ["2026-11-21"]


# --- a year and more ----------------------------------------------------------------------------


def test_four_hundred_days(new_line: Line) -> None:
    """Three clock changes, two of them in downtime over 03:00; days without a commit."""
    begin = datetime(2026, 3, 1, 12, tzinfo=BERLIN)
    days = Days(new_line, begin)
    quiet = {40, 41, 100, 239, 300}
    down = {*range(20, 31), 150, *range(200, 260), *range(310, 390)}  # both clock changes of 2026
    every = [begin.date() + i * DAY for i in range(1, 401)]
    wanted, commits = {}, []
    for i, day in enumerate(every, 1):
        # The last one before the hour, and one after it that belongs to the next day.
        times = [] if i in quiet else [(1, 30), (1, 59), (3, 1)]
        commits += [datetime(day.year, day.month, day.day, *t, tzinfo=BERLIN) for t in times]
    hashes = new_line.add(*[batch(n, t.isoformat()) for n, t in enumerate(commits, 1)])
    taken: set[str] = set()
    for day in every:
        three = datetime(day.year, day.month, day.day, 3, tzinfo=BERLIN)
        stood = [h for h, t in zip(hashes, commits, strict=True) if t <= three][-1]
        if stood not in taken:
            taken.add(stood)
            wanted[str(day)] = stood
    main = new_line.root / ".git" / "refs" / "heads" / "main"
    for i, day in enumerate(every, 1):
        hour = 3 if i not in down else 20
        now = datetime(day.year, day.month, day.day, hour, 0, 10, tzinfo=BERLIN)
        main.write_text([h for h, t in zip(hashes, commits, strict=True) if t <= now][-1])
        if hour == 20:
            days.restart()
        if hour == 3 or i + 1 not in down:  # what was missed is made up for in the evening
            days.look(now)
    assert days.pins() == wanted
    assert days.told.pins == list(wanted)
    missing = [str(day) for day in every if str(day) not in wanted]
    assert len(missing) == 1
    assert len(days.told.notes) == 1 and missing[0] in days.told.notes[0]
    assert not days.told.warnings
