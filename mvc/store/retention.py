"""Retention by calendar: which moments the rules of [keep] or [thin] keep.

Owns the meaning of the rules, which is that of restic's `forget`: so a policy that a user knows
from there keeps the same here. Knows nothing of commits but their times, and deletes nothing.

Source: restic 0.14, internal/restic/snapshot_policy.go (ApplyPolicy) and duration.go;
`tests/store/test_retention.py` compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from mvc.errors import ConfigError
from mvc.settings import KeepRules

_DURATION = re.compile(r"(?:\d+[ymdh])+")
_ZERO = re.compile(r"(?:0+[ymdh])*")
_BUCKETS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda when: (when.date(), when.hour)),
    ("daily", lambda when: when.date()),
    ("weekly", lambda when: when.isocalendar()[:2]),
    ("monthly", lambda when: (when.year, when.month)),
    ("yearly", lambda when: when.year),
)
_COUNTS = ("last", *(name for name, _ in _BUCKETS))


def any_rule(rules: KeepRules) -> bool:
    """Whether the rules say anything; those that do not keep nothing."""
    return bool(_spans(rules.within) or any(getattr(rules, name) for name in _COUNTS))


def kept(
    moments: Sequence[tuple[str, datetime]],
    rules: KeepRules,
    zone: tzinfo,
    now: datetime,
    *,
    newest: datetime | None = None,
) -> dict[str, tuple[str, ...]]:
    """The names that the rules keep, each with the rules that keep it.

    `last` counts moments; `hourly` to `yearly` keep the newest moment of each hour, day, ISO
    week, month or year that has one, so many of them, as the clock of `zone` showed it; `within`
    keeps what is younger than that time before the newest moment that is not in the future.

    Args:
        moments: Names and times, newest first where times are equal.
        rules: What to keep.
        zone: The zone of the calendar.
        now: The present.
        newest: What `within` counts back from, instead of the newest of `moments`.

    Raises:
        ConfigError: `within` is no duration.
    """
    found: dict[str, tuple[str, ...]] = {}
    left = {name: getattr(rules, name) for name, _ in _BUCKETS}
    last: dict[str, object] = {}
    # In UTC: Python compares two times of one zone by the clock, which goes back once a year.
    moments = [(name, when.astimezone(UTC)) for name, when in moments]
    since = _since(moments, rules.within, zone, now, newest)
    ordered = sorted(moments, key=lambda each: each[1], reverse=True)
    for number, (name, when) in enumerate(ordered):
        local = when.astimezone(zone)
        reasons = ["last"] if number < rules.last else []
        for rule, bucket in _BUCKETS:
            here = bucket(local)
            if left[rule] and last.get(rule) != here:
                left[rule] -= 1
                last[rule] = here
                reasons.append(rule)
        if _spans(rules.within) and (since is None or when > since):
            reasons.append("within")
        if reasons:
            found[name] = tuple(reasons)
    return found


def _spans(within: str) -> bool:
    """Whether `within` says anything; no time at all (`0d`) is no rule, as to restic."""
    return not _ZERO.fullmatch(within)


def _since(
    moments: Sequence[tuple[str, datetime]],
    within: str,
    zone: tzinfo,
    now: datetime,
    newest: datetime | None,
) -> datetime | None:
    """The moment after which `within` keeps; None: it keeps all."""
    if not _spans(within):
        return None
    if not _DURATION.fullmatch(within):
        raise ConfigError(
            f'within = "{within}" is no duration',
            'write years, months, days and hours: "1y6m", "7d12h"',
        )
    parts = {unit: int(count) for count, unit in re.findall(r"(\d+)([ymdh])", within)}
    latest = newest or max((when for _, when in moments if when < now), default=None)
    if latest is None:
        return None
    local = latest.astimezone(zone)
    months = local.year * 12 + local.month - 1 - 12 * parts.get("y", 0) - parts.get("m", 0)
    try:
        # As in Go: a day that the month does not have runs over into the next one.
        first = local.replace(year=months // 12, month=months % 12 + 1, day=1)
        day = first + timedelta(days=local.day - 1 - parts.get("d", 0))
        return day.astimezone(UTC) - timedelta(hours=parts.get("h", 0))
    except (ValueError, OverflowError):  # before the year 1
        return None
