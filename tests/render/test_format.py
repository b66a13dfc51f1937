"""Numbers, times, names, sparklines and documents at their edges."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from mvc.render import document
from mvc.render import format as fmt
from mvc.render.sparkline import sparkline
from mvc.types import Loss
from tests.render import samples as s


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (62, "1m02s"),
        (3599.6, "1h00m"),
        (3 * 3600 + 300, "3h05m"),
        (90000, "1d01h"),
        (math.inf, "?"),
        (math.nan, "?"),
        (-1, "?"),
    ],
)
def test_duration(seconds: float, told: str) -> None:
    assert fmt.duration(seconds) == told


@pytest.mark.parametrize(
    ("delta", "told"),
    [
        (timedelta(seconds=-90), "in the future"),
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=59), "59 min ago"),
        (timedelta(hours=23), "23 h ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=59), "59 days ago"),
        (timedelta(days=90), "3 months ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_age(delta: timedelta, told: str) -> None:
    assert fmt.age(s.NOW - delta, s.NOW) == told


def test_moment_is_local() -> None:
    assert fmt.moment(s.ONE.time, s.NOW) == "Fri 2026-11-20 10:03"  # 09:03 UTC, zone +1


def test_a_naive_present_is_the_machine_s_zone_summer_time_and_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        now = datetime(2026, 11, 20, 12)
        winter, summer = (datetime(2026, month, 1, 12, tzinfo=UTC) for month in (1, 7))
        assert fmt.moment(winter, now) == "Thu 2026-01-01 13:00"
        assert fmt.moment(summer, now) == "Wed 2026-07-01 14:00"
        assert fmt.age(datetime(2026, 11, 20, 10, tzinfo=UTC), now) == "1 h ago"
    time.tzset()


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (969_000_000, "969 MB"), (5e15, "5000.0 TB")],
)
def test_size(num_bytes: float, told: str) -> None:
    assert fmt.size(num_bytes) == told


def test_numbers() -> None:
    assert [fmt.loss(x) for x in (2.31415, 0.0123, 0, 12345.6, math.nan)] == [
        "2.314",
        "0.0123",
        "0.000",
        "1.23e+04",
        "nan",
    ]
    assert (fmt.rate(2e-4), fmt.rate(0)) == ("2.0e-04", "0")
    assert fmt.count(1, "step") == "1 step"
    assert fmt.count(12345, "row") == "12,345 rows"
    assert fmt.percent(2.0, 1.5) == "-25.0%"
    assert fmt.percent(0.0, 1.5) == ""


def test_names() -> None:
    assert fmt.shorten("abcdefghij", 5) == "ab…ij"
    assert fmt.shorten("abcde", 5) == "abcde"
    assert "\x1b" not in fmt.plain("a\x1b[31m")


def test_sparkline() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([1, 1, 1], 8) == "▁▁▁"
    assert sparkline([3, 2, 1], 8) == "█▅▁"
    assert sparkline(range(100), 4) == "▁▃▆█"
    assert sparkline([1, math.nan, 2], 8) == "▁!█"
    assert sparkline([math.nan], 8) == "!"


def test_a_document_is_json_with_zones_and_without_nan() -> None:
    broken = replace(s.TWO, loss=Loss(1.0, math.nan, 1.0))
    told = json.loads(document.dump([document.commit(broken, ("mark",))]))[0]
    assert told["loss"] == {"first": 1.0, "last": None, "mean": 1.0}
    assert told["time"] == "2026-11-20T10:03:00+00:00"
    assert told["warnings"] == ["mark"]
    assert "path" in json.loads(document.dump(document.plan(s.PLAN)))["data"]


def test_json_of_a_name_that_is_no_utf_8() -> None:
    """A file name of another encoding holds half a surrogate pair."""
    odd = replace(s.TWO, data=replace(s.TWO.data, name="x\udcff.jsonl"))
    row = document.logged(odd, (), rolled_back=False)
    texts = [document.listing([row]), *map(document.dump, ([document.commit(odd)], odd))]
    for text in texts:
        told = json.loads(text.encode(errors="backslashreplace"))
        found = told[0] if isinstance(told, list) else told
        assert found["data"]["name"] == "x\udcff.jsonl"
