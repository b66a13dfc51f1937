"""What a user calls a revision, against a table of cases and a slow model."""

from __future__ import annotations

import calendar
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import RevisionNotFound
from mvc.store import history
from mvc.store.revisions import resolve
from mvc.types import Resolved
from tests.conftest import Line, batch, rollback, start

BERLIN = ZoneInfo("Europe/Berlin")  # 2026-10-25 has 25 hours, 2027-03-28 has 23
NOW = datetime.fromisoformat("2026-11-21T00:30:00+01:00")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, dict[str, str]]:
    """One line with all that makes dates hard, a rollback in it, and a branch beside it."""
    line = Line(tmp_path_factory.mktemp("story") / "line")
    hashes = line.add(
        start("2026-10-20T09:00:00+02:00"),
        batch(1, "2026-10-24T23:59:59+02:00"),
        batch(2, "2026-10-25T00:00:00+02:00"),
        batch(3, "2026-10-25T02:30:00+02:00"),
        batch(4, "2026-10-25T02:15:00+01:00"),
        batch(5, "2026-10-25T23:59:59+01:00"),
        batch(6, "2026-10-26T00:00:00+01:00"),
        batch(7, "2026-11-20T14:03:00+01:00"),
        batch(8, "2026-11-20T14:03:00+01:00"),
    )
    names = {f"@{number}": found for number, found in enumerate(hashes)}
    (names["back"],) = line.add(rollback(names["@2"], 2, "2026-11-21T00:10:00+01:00"))
    names["@9"], names["@10"], names["@11"] = line.add(
        batch(9, "2026-11-23T06:00:00+09:00"),  # in Berlin it is still the 22nd
        batch(10, "2027-03-28T01:59:00+01:00"),
        batch(11, "2027-03-28T03:10:00+02:00"),
    )
    names["side@7"], names["side@8"] = line.add(
        batch(7, "2026-10-27T10:00:00+01:00"),
        batch(8, "2026-10-27T11:00:00+01:00"),
        branch="side",
        start=names["@6"],
    )
    line.git("tag", "-a", "-m", "", "snapshot/2026-10-24", names["@0"])
    line.git("tag", "-a", "-m", "", "snapshot/2026-11-18", names["@6"])
    line.git("tag", "v1", names["@5"])
    line.git("branch", "2026-10-25", names["@0"])
    line.git("branch", "today", names["@0"])
    line.git("branch", "@3", names["@0"])
    line.git("update-ref", "refs/remotes/origin/main", names["@8"])
    return line, names


FOUND = [
    # by number
    ("@0", "@0", "the start of this line"),
    ("@1", "@1", "batch 1 of this line"),
    ("@3", "@3", "batch 3"),  # skipped by the rollback, and there is a branch of that name
    ("@8", "@8", "batch 8"),  # not the branch's
    ("@11", "@11", "batch 11"),
    ("@007", "@7", "batch 7"),
    # by day
    ("2026-10-20", "@0", "last commit of 2026-10-20 (09:00), there is no snapshot of that day"),
    ("2026-10-24", "@0", "snapshot of 2026-10-24"),  # its last commit would be @1
    ("2026-11-18", "@6", "snapshot of 2026-11-18"),  # a day without commits
    ("2026-10-25", "@5", "last commit of 2026-10-25 (23:59)"),  # 25 hours; not the branch
    ("heads/2026-10-25", "@0", "branch 2026-10-25"),
    ("snapshot/2026-10-24", "@0", "tag snapshot/2026-10-24"),
    ("2026-10-26", "@6", "(00:00)"),
    ("2026-11-20", "@8", "(14:03)"),  # two commits in one second
    ("2026-11-21", "back", "(00:10)"),
    ("2026-11-22", "@9", "(22:00)"),  # committed on the 23rd of its own zone
    ("2027-03-28", "@11", "(03:10)"),  # 23 hours
    ("today", "back", "2026-11-21"),
    ("yesterday", "@8", "2026-11-20"),
    # by time
    ("2026-10-20T09:00", "@0", "last commit at or before 2026-10-20T09:00"),
    ("2026-10-20 09:00", "@0", "(2026-10-20 09:00:00+02:00)"),
    ("2026-10-24T23:59", "@0", ""),
    ("2026-10-24T23:59:58", "@0", ""),
    ("2026-10-24T23:59:59", "@1", ""),
    ("2026-10-25T00:00", "@2", ""),
    ("2026-10-25T02:00", "@3", "(2026-10-25 02:30:00+02:00)"),  # the second two o'clock
    ("2026-10-25T02:00+02:00", "@2", ""),  # the first
    ("2026-10-25T02:14:59", "@3", ""),
    ("2026-10-25T02:15", "@4", ""),
    ("2026-10-25T02:30+02:00", "@3", ""),
    ("2026-10-25T02:30+01:00", "@4", ""),
    ("2026-10-25T00:30Z", "@3", ""),
    ("2026-10-25T01:15:00Z", "@4", ""),
    ("2026-10-25T01:15:00+0000", "@4", ""),
    ("2026-10-26T00:00", "@6", ""),
    ("2026-11-20T14:02:59", "@6", ""),
    ("2026-11-20T14:03", "@8", ""),
    ("2026-11-19T12:00", "@6", ""),
    ("2026-11-22T23:00", "@9", ""),
    ("2026-11-23T05:59+09:00", "back", ""),
    ("2027-03-28T01:59", "@10", ""),
    ("2027-03-28T02:00", "@10", ""),  # the clock never showed it
    ("2027-03-28T02:30", "@10", ""),
    ("2027-03-28T02:59:59", "@10", ""),
    ("2027-03-28T03:09", "@10", ""),
    ("2027-03-28T03:10", "@11", ""),
    ("9999-12-31T23:59:59", "@11", ""),
    # by git
    ("HEAD", "@11", "branch main"),
    ("@", "@11", "branch main"),
    ("main", "@11", "branch main"),
    ("side", "side@8", "branch side"),
    ("side~1", "side@7", "(side~1)"),
    ("HEAD~2", "@9", ""),
    ("v1", "@5", "tag v1"),
    ("origin/main", "@8", "remote branch origin/main"),
]


@pytest.mark.parametrize(("spec", "name", "how"), FOUND)
def test_finds(story: tuple[Line, dict[str, str]], spec: str, name: str, how: str) -> None:
    line, names = story
    found = resolve(line.root, spec, BERLIN, NOW)
    assert found.commit == names[name]
    assert how in found.how
    assert found.spec == spec
    assert found.branch == (found.how.removeprefix("branch ") if "branch" in how[:6] else None)


@pytest.mark.parametrize("length", [7, 10, 40])
def test_finds_hashes(story: tuple[Line, dict[str, str]], length: int) -> None:
    line, names = story
    spec = names["@4"][:length]
    assert resolve(line.root, spec, BERLIN) == Resolved(
        spec, names["@4"], None, f"commit {names['@4'][:10]}"
    )


MISSING = [
    # spec, what the message says, what the hint says
    ("@12", "from @0 to @11", "the nearest is `@11`"),
    ("@99", "no batch 99", "`@11`"),
    ("2026-10-19", "2026-10-19", "the nearest day with one is `2026-10-20`"),
    ("2026-10-28", "no commit of 2026-10-28", "`2026-10-26` and `2026-11-18`"),
    ("2026-11-19", "2026-11-19", "`2026-11-18` and `2026-11-20`"),
    ("2026-11-23", "2026-11-23 (days of Europe/Berlin)", "`2026-11-22` and `2027-03-28`"),
    ("2030-01-01", "2030-01-01", "`2027-03-28`"),
    ("0001-01-01", "0001-01-01", "`2026-10-20`"),
    ("9999-12-31", "9999-12-31", "`2027-03-28`"),
    ("2026-10-20T08:59:59", "no commit at or before", "`@0`, of 2026-10-20 09:00:00+02:00"),
    ("2026-10-20T06:59Z", "no commit at or before", "`@0`"),
    ("0001-01-01T00:00", "no commit at or before", "`@0`"),
    ("0001-01-01T00:00+14:00", "no commit at or before", "`@0`"),
    ("2026-02-30", "not in the calendar", "@N"),
    ("2026-13-01", "not in the calendar", "@N"),
    ("2026-10-25T25:00", "not in the calendar", "@N"),
    ("2026-10-25T12:60", "not in the calendar", "@N"),
    ("mian", "names no revision", "did you mean `main`?"),
    ("nothing", "names no revision", "@N"),
    ("@{-1", "names no revision", ""),
    ("@{junk}", "names no revision", ""),
    ("@{yesterday}", "names no revision", ""),
    ("main@{1 day ago}", "names no revision", ""),
    ("@-1", "names no revision", ""),
    ("@1234567890123", "names no revision", ""),
    ("@١", "names no revision", ""),
    ("2026-10-2٥", "names no revision", ""),
    ("^HEAD", "names no revision", ""),
    ("HEAD^@", "names no revision", ""),
    ("HEAD~1..HEAD", "names no revision", ""),
    ("HEAD:n.txt", "names no revision", ""),
    ("n.txt", "names no revision", ""),
    ("HEAD~99", "names no revision", ""),
    ("1" * 40, "names no revision", ""),
    ("", "names no revision", ""),
    (" ", "names no revision", ""),
    (" main", "names no revision", "main"),
    ("-h", "names no revision", ""),
    ("--all", "names no revision", ""),
    ("--output=owned", "names no revision", ""),
    ("main\n", "names no revision", ""),
    ("main\x00", "names no revision", ""),
    ("\x1b[31m", "names no revision", ""),
    ("\udcff", "names no revision", ""),
    ("x" * 200_000, "names no revision", ""),
]


@pytest.mark.parametrize(("spec", "message", "hint"), MISSING, ids=lambda value: repr(value)[:30])
def test_refuses(story: tuple[Line, dict[str, str]], spec: str, message: str, hint: str) -> None:
    line, _ = story
    with pytest.raises(RevisionNotFound) as caught:
        resolve(line.root, spec, BERLIN, NOW)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint
    assert caught.value.message.isprintable()


def test_an_ambiguous_hash(new_line: Line) -> None:
    when = "2026-01-01T00:00:00+00:00"
    hashes = sorted(new_line.add(start(when), *(batch(n, when) for n in range(1, 1500))))
    twin = next(a[:4] for a, b in pairwise(hashes) if a[:4] == b[:4])
    with pytest.raises(RevisionNotFound, match="begins several hashes"):
        resolve(new_line.root, twin, BERLIN)


def test_an_empty_repository(new_line: Line) -> None:
    for spec in ("@0", "2026-10-20", "2026-10-20T10:00", "HEAD", "main"):
        with pytest.raises(RevisionNotFound):
            resolve(new_line.root, spec, BERLIN)


def detached(story: tuple[Line, dict[str, str]], to: str, at: Path) -> tuple[Path, dict[str, str]]:
    line, names = story
    shutil.copytree(line.root, at / "copy")
    subprocess.run(
        ["git", "update-ref", "--no-deref", "HEAD", names[to]], cwd=at / "copy", check=True
    )
    (at / "copy" / ".git" / "HEAD").write_text(names[to] + "\n")
    return at / "copy", names


def test_a_detached_head_looks_at_its_branches(
    story: tuple[Line, dict[str, str]], tmp_path: Path
) -> None:
    root, names = detached(story, "@7", tmp_path)
    assert resolve(root, "HEAD", BERLIN).branch is None
    for spec, name in [
        ("@2", "@2"),
        ("@8", "@8"),
        ("@9", "@9"),
        ("2026-11-22", "@9"),
        ("2026-11-22T23:00", "@9"),
    ]:
        assert resolve(root, spec, BERLIN).commit == names[name], spec


def test_a_detached_head_where_branches_part(
    story: tuple[Line, dict[str, str]], tmp_path: Path
) -> None:
    root, names = detached(story, "@6", tmp_path)
    assert resolve(root, "@9", BERLIN).commit == names["@9"]
    assert resolve(root, "2026-10-27", BERLIN).commit == names["side@8"]
    with pytest.raises(RevisionNotFound, match="several branches") as caught:
        resolve(root, "@7", BERLIN)
    assert names["@7"][:10] in caught.value.message
    assert names["side@7"][:10] in caught.value.message
    assert resolve(root, names["@7"][:10], BERLIN).commit == names["@7"]


def test_a_detached_head_on_no_branch(new_line: Line) -> None:
    hashes = new_line.add(start("2026-01-01T00:00:00+00:00"), batch(1, "2026-01-02T00:00:00+00:00"))
    new_line.git("update-ref", "--no-deref", "HEAD", hashes[1])
    (new_line.root / ".git" / "HEAD").write_text(hashes[1] + "\n")
    new_line.git("update-ref", "-d", "refs/heads/main")
    assert resolve(new_line.root, "@1", BERLIN).commit == hashes[1]
    assert resolve(new_line.root, "2026-01-02", BERLIN).commit == hashes[1]


def test_the_present_state_comes_first(new_line: Line) -> None:
    """After a rollback to another branch's batch, `@N` means what the state has learned."""
    begun = new_line.add(start("2026-01-01T00:00:00+00:00"), batch(1, "2026-01-02T00:00:00+00:00"))
    (other,) = new_line.add(batch(2, "2026-01-03T00:00:00+00:00"), branch="b", start=begun[1])
    (mine,) = new_line.add(batch(2, "2026-01-04T00:00:00+00:00"))
    assert resolve(new_line.root, "@2", BERLIN).commit == mine
    new_line.add(rollback(other, 2, "2026-01-05T00:00:00+00:00"))
    assert resolve(new_line.root, "@2", BERLIN).commit == other


def test_a_day_that_a_zone_skipped(new_line: Line) -> None:
    """Samoa went from December 29th to the 31st in 2011."""
    hashes = new_line.add(start("2011-12-29T23:00:00-10:00"), batch(1, "2011-12-31T00:00:00+14:00"))
    apia = ZoneInfo("Pacific/Apia")
    assert resolve(new_line.root, "2011-12-29", apia).commit == hashes[0]
    assert resolve(new_line.root, "2011-12-31", apia).commit == hashes[1]
    assert resolve(new_line.root, "2011-12-30T12:00", apia).commit == hashes[0]
    with pytest.raises(RevisionNotFound, match="2011-12-30"):
        resolve(new_line.root, "2011-12-30", apia)


def test_clocks_that_went_wrong(new_line: Line) -> None:
    """The last commit is the latest, even where a child claims to be older than its parent."""
    hashes = new_line.add(
        start("2026-01-01T10:00:00+00:00"),
        batch(1, "2026-01-01T12:00:00+00:00"),
        batch(2, "2026-01-01T11:00:00+00:00"),
    )
    utc = ZoneInfo("UTC")
    assert resolve(new_line.root, "2026-01-01", utc).commit == hashes[1]
    assert resolve(new_line.root, "2026-01-01T11:30", utc).commit == hashes[2]


# --- against a slow model -----------------------------------------------------------------------

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # clocks change at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
]
CHANGES = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 5, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
]
MINUTES = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-3000, 3000),
)
OFFSETS = st.sampled_from([timezone(timedelta(hours=hours)) for hours in (0, 2, -5, 14)])


def shown(moment: datetime, zone: ZoneInfo) -> datetime:
    """What a clock in that zone shows, by way of the C library's calendar."""
    seconds = calendar.timegm(moment.utctimetuple())
    return datetime.fromtimestamp(seconds, zone).replace(tzinfo=None)


@settings(max_examples=30)
@given(
    times=st.lists(st.tuples(MINUTES, OFFSETS), min_size=1, max_size=8),
    asked=st.lists(MINUTES, min_size=1, max_size=3),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
)
def test_dates_agree_with_a_slow_model(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[tuple[datetime, timezone]],
    asked: list[datetime],
    zone: ZoneInfo,
) -> None:
    line = Line(tmp_path_factory.mktemp("model") / "line")
    local = [moment.astimezone(zone_of_commit) for moment, zone_of_commit in times]
    first = start(local[0].isoformat())
    commits = [first, *(batch(n, when.isoformat()) for n, when in enumerate(local[1:], 1))]
    hashes = line.add(*commits)

    def last(kept: list[int]) -> str | None:
        return hashes[max(kept, key=lambda at: (local[at], at))] if kept else None

    def answer(spec: str) -> str | None:
        try:
            return resolve(line.root, spec, zone).commit
        except RevisionNotFound:
            return None

    for moment in [*asked, local[0]]:
        clock = shown(moment, zone)
        day = [at for at, each in enumerate(local) if shown(each, zone).date() == clock.date()]
        assert answer(f"{clock:%Y-%m-%d}") == last(day)
        exact = [at for at, each in enumerate(local) if each <= moment]
        assert answer(f"{moment:%Y-%m-%dT%H:%M%z}") == last(exact)
        # Minute by minute on: the last moment that the clock shows this, or had passed it by.
        passes = [
            m for n in range(-180, 181) if shown(m := moment + timedelta(minutes=n), zone) == clock
        ]
        until = [at for at, each in enumerate(local) if each <= passes[-1]]
        assert answer(f"{clock:%Y-%m-%d %H:%M}") == last(until)


def test_number_of_processes(
    story: tuple[Line, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mvc checkout @N` and dates stay quick: few starts of git."""
    line, _ = story
    calls: list[tuple[str, ...]] = []
    real = history.git.read_bytes
    monkeypatch.setattr(
        history.git, "read_bytes", lambda root, *args: (calls.append(args), real(root, *args))[1]
    )
    for spec, most in [("@11", 1), ("2026-11-18", 1), ("2026-11-20", 3), ("main", 2)]:
        calls.clear()
        resolve(line.root, spec, BERLIN)
        assert len(calls) <= most, spec
