"""Frozen records of what `mvc watch` does: floor 0, as `types`; its status file holds one.

Times are timezone-aware, in the repo's zone; durations are seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

State = Literal[
    "starting", "training", "idle", "waiting", "waiting for disk", "paused", "stopping", "stopped"
]
"""What the daemon does; `waiting`: somebody must mend something, and `why` says what."""


class Landed(msgspec.Struct, frozen=True):
    """The last commit, in short; `batch` is None where it is none."""

    short: str
    batch: int | None
    subject: str
    time: datetime


class Pin(msgspec.Struct, frozen=True):
    """The last snapshot: its day, and when it was made."""

    day: str
    time: datetime


class Failure(msgspec.Struct, frozen=True):
    """A file that went to `failed/`; `why` is the error's message."""

    file: str
    why: str
    time: datetime


class Event(msgspec.Struct, frozen=True):
    """Something that a person who watches should read."""

    time: datetime
    text: str


class LossAt(msgspec.Struct, frozen=True):
    """A point of the curve of the last hours: the mean loss of the steps around that time."""

    time: datetime
    loss: float


class WatchStatus(msgspec.Struct, frozen=True):
    """What the daemon does, as it tells it: once a second while it trains, at once on an event.

    `written` is when it last spoke, `phase` what it does between steps. `step` to `seconds_left`
    are the batch's in progress, or the last one's. `queue` names the next files, `num_queued`
    counts all of them. The two other counters count since `since`; `losses` and `events` are
    oldest first.
    """

    root: str
    inbox: str
    pid: int
    host: str
    since: datetime
    written: datetime
    state: State = "starting"
    why: str = ""
    phase: str = ""
    batch: str | None = None
    step: int = 0
    num_steps: int = 0
    lifetime_step: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    seconds_left: float | None = None
    last_step_time: datetime | None = None
    queue: tuple[str, ...] = ()
    num_queued: int = 0
    num_batches: int = 0
    num_failures: int = 0
    last_commit: Landed | None = None
    last_snapshot: Pin | None = None
    last_failure: Failure | None = None
    losses: tuple[LossAt, ...] = ()
    events: tuple[Event, ...] = ()


class WatchHealth(msgspec.Struct, frozen=True):
    """What `mvc watch --status` tells of a repo.

    `daemon` is who watches, in words, None where nobody does; `status` what was told last, None
    where no daemon ever ran. `trouble` says what is wrong, None where nothing is.
    """

    status: WatchStatus | None
    daemon: str | None
    seconds_since_step: float | None
    trouble: str | None
