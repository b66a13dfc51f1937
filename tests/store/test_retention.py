"""[keep] against restic's own `forget` on the same 2,000 moments, and what has no equal there."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mvc.errors import ConfigError
from mvc.settings import KeepRules
from mvc.store import retention
from tests.restic import FIXTURE, POLICIES, ZONE, Restic, moments
from tests.servers import tool

NOW = datetime(2026, 11, 24, tzinfo=UTC)
FORGETS = json.loads(FIXTURE.read_text())


def kept(times: list[datetime], policy: dict[str, int | str]) -> list[int]:
    named = [(str(number), when) for number, when in enumerate(times)]
    rules = KeepRules(**policy)  # type: ignore[arg-type]
    return sorted(map(int, retention.kept(named, rules, ZoneInfo(ZONE), NOW)))


@pytest.mark.parametrize("number", range(len(POLICIES)), ids=[str(p) for p in POLICIES])
def test_keeps_what_restic_keeps(number: int) -> None:
    theirs = [n for first, last in FORGETS["kept"][number] for n in range(first, last + 1)]
    assert kept(moments(), POLICIES[number]) == theirs
    assert theirs


def test_the_restic_of_this_machine_agrees(tmp_path: Path) -> None:
    program = tool("restic", "restic")
    times = moments(1000, seed=11)
    restic = Restic(tmp_path, program, times)
    index = {when.astimezone(UTC): number for number, when in enumerate(times)}
    for policy in (POLICIES[-1], POLICIES[-4], POLICIES[20]):
        assert [index[when] for when in restic.kept(policy)] == kept(times, policy)
    shutil.rmtree(tmp_path)


def test_each_kept_moment_has_its_reasons() -> None:
    times = [datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(hours=12 * n) for n in range(5)]
    named = [(str(n), when) for n, when in enumerate(times)]
    found = retention.kept(named, KeepRules(last=1, daily=2, within="13h"), ZoneInfo("UTC"), NOW)
    assert found == {"4": ("last", "daily", "within"), "3": ("daily", "within")}


def test_the_day_is_that_of_the_zone() -> None:
    evening = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)
    named = [("late", evening + timedelta(hours=1)), ("early", evening)]
    assert set(retention.kept(named, KeepRules(daily=2), ZoneInfo("UTC"), NOW)) == {"late", "early"}
    assert set(retention.kept(named, KeepRules(daily=2), ZoneInfo(ZONE), NOW)) == {"late"}


def test_a_time_in_the_future_is_not_the_newest_for_within() -> None:
    named = [("ahead", NOW + timedelta(days=400)), ("now", NOW - timedelta(hours=1))]
    named.append(("old", NOW - timedelta(days=3)))
    found = retention.kept(named, KeepRules(within="1d"), ZoneInfo("UTC"), NOW)
    assert set(found) == {"ahead", "now"}


@pytest.mark.parametrize("word", ["7", "d", "-1d", "7 d", "1w", "7D", "1d2"])
def test_what_is_no_duration_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="no duration"):
        retention.kept([("a", NOW)], KeepRules(within=word), ZoneInfo("UTC"), NOW)


def test_without_a_rule_nothing_is_named() -> None:
    assert not retention.any_rule(KeepRules())
    assert retention.any_rule(KeepRules(within="1d")) and retention.any_rule(KeepRules(yearly=1))
    assert retention.kept([("a", NOW)], KeepRules(), ZoneInfo("UTC"), NOW) == {}
    with pytest.raises(ConfigError):  # a slip of the pen is no consent to delete all the rest
        retention.kept([("a", NOW)], KeepRules(within="0"), ZoneInfo("UTC"), NOW)
    assert retention.any_rule(KeepRules(within="0"))


@pytest.mark.parametrize("word", ["0d", "0h", "0y0m0d0h", "00d"])
def test_no_time_at_all_is_no_rule(word: str) -> None:
    """restic: `no policy was specified, no snapshots will be removed`."""
    assert not retention.any_rule(KeepRules(within=word))
    assert retention.kept([("a", NOW)], KeepRules(within=word), ZoneInfo("UTC"), NOW) == {}
