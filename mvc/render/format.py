"""Numbers, times and names as people read them. Owns the wording of units; refuses to decide
what is worth showing. Imports nothing but the standard library."""

from __future__ import annotations

import math
from datetime import datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """A length of time in at most two units: `0.4s`, `12s`, `1m02s`, `3h05m`, `2d04h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02d}h"


def elapsed(then: datetime, now: datetime) -> float:
    """Seconds from `then` to `now`; one that is naive is the machine's local time."""
    return now.timestamp() - then.timestamp()


def age(then: datetime, now: datetime) -> str:
    """How long ago `then` was, in one unit: `just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    seconds = elapsed(then, now)
    if seconds < -_MINUTE:
        return "in the future"
    if seconds < _MINUTE:
        return "just now"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min ago"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)} h ago"
    days = int(seconds // _DAY)
    if days < 60:
        return "1 day ago" if days == 1 else f"{days} days ago"
    return f"{days // 30} months ago" if days < 730 else f"{days // 365} years ago"


def moment(then: datetime, now: datetime) -> str:
    """The local time of `then` in the zone of `now`, the machine's where that is naive:
    `Fri 2026-11-20 14:03`."""
    return then.astimezone(now.tzinfo).strftime("%a %Y-%m-%d %H:%M")


def size(num_bytes: float) -> str:
    """A size in decimal units, as disks are sold: `969 MB`, `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return (
                f"{num_bytes:.0f} {unit}"
                if num_bytes >= 10 or unit == "B"
                else (f"{num_bytes:.1f} {unit}")
            )
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def loss(value: float) -> str:
    """A loss in at most 8 characters: three decimals, or three digits where those say nothing."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def change(first: float, last: float) -> str:
    """The difference of two losses with its sign: `-0.332`."""
    return f"{last - first:+.3f}"


def percent(first: float, last: float) -> str:
    """The relative difference of two losses with its sign: `-14.3%`; empty where it has none."""
    if not (math.isfinite(first) and math.isfinite(last)) or first == 0:
        return ""
    return f"{(last - first) / abs(first):+.1%}"


def rate(value: float) -> str:
    """A learning rate: `2.0e-04`, or a plain `0`, so that a dead schedule is seen."""
    return f"{value:.1e}" if value else "0"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 step`, `12,345 rows`, `2 batches`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def plain(text: str) -> str:
    """`text` on one line without control characters.

    File names and messages come from other people's data; an escape sequence in one must not
    reach the terminal.
    """
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, cut in the middle: names differ at both ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
