"""Frozen records of what `mvc watch` does: floor 0, as `types`; its status file holds one.

Times are timezone-aware, in the repo's zone; durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

State = Literal[
    "starting", "training", "idle", "waiting", "waiting for disk", "paused", "stopping", "stopped"
]
"""What the daemon does; `waiting`: somebody must mend something, and `why` says what."""


@dataclass(frozen=True, slots=True)
class Landed:
    """The last commit, in short; `batch` is None where it is none."""

    short: str
    batch: int | None
    subject: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Pin:
    """The last snapshot: its day, and when it was made."""

    day: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that went to `failed/`; `why` is the error's message."""

    file: str
    why: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person who watches should read."""

    time: datetime
    text: str


@dataclass(frozen=True, slots=True)
class LossAt:
    """A point of the curve of the last hours: the mean loss of the steps around that time."""

    time: datetime
    loss: float


@dataclass(frozen=True, slots=True)
class WatchStatus:
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


@dataclass(frozen=True, slots=True)
class WatchHealth:
    """What `mvc watch --status` tells of a repo.

    `daemon` is who watches, in words, None where nobody does; `status` what was told last, None
    where no daemon ever ran. `trouble` says what is wrong, None where nothing is.
    """

    status: WatchStatus | None
    daemon: str | None
    seconds_since_step: float | None
    trouble: str | None
