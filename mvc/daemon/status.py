"""What the daemon does, for whoever asks: `.mvc/watch/status.json`, the health file.

Owns that file. Its one writer is the holder of the daemon's lock (`Board`), anyone may read it
(`health`): it is replaced as a whole, and not synced, because a power cut ends the daemon too.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from mvc.store import lock
from mvc.store.layout import Layout
from mvc.types import StepReport
from mvc.watching import Event, LossAt, WatchHealth, WatchStatus

STALE_S = 900.0
"""A daemon that says nothing for so long hangs: every step, event and idle look speaks."""
_PHASE_S = 4 * STALE_S
"""A phase speaks at its beginning only: a large base from a slow disk takes its time."""
_EVERY_S = 1.0
_MOST_EVENTS, _MOST_NAMES = 50, 50


def file(at: Layout) -> Path:
    """Where the status of a repo's daemon is."""
    return at.watch / "status.json"


def read(at: Layout) -> WatchStatus | None:
    """What the last daemon told last; None where none ever ran, or another version of mvc did."""
    try:
        return msgspec.json.decode(file(at).read_bytes(), type=WatchStatus)
    except (OSError, msgspec.DecodeError):
        return None


def health(at: Layout, now: datetime) -> WatchHealth:
    """How the daemon of a repo does.

    Trouble is: no daemon lives; nothing was heard of it for `STALE_S` seconds, but for a paused
    one; it waits for somebody to mend something.

    Args:
        at: the model repo.
        now: the present, timezone-aware.
    """
    status, daemon = read(at), lock.daemon(at)
    since = None
    if status is not None and status.last_step_time is not None:
        since = max((now - status.last_step_time).total_seconds(), 0.0)
    return WatchHealth(status, daemon, since, _trouble(status, daemon, now))


def _trouble(status: WatchStatus | None, daemon: str | None, now: datetime) -> str | None:
    if daemon is None:
        if status is None:
            return "no daemon has run here yet"
        # One that ended in order has said so; another one was killed.
        how = "ended" if status.state == "stopped" else "died"
        return f"no daemon lives; the last one {how} at {status.written:%Y-%m-%d %H:%M:%S}"
    if status is None:
        return None  # it lives, and has not spoken yet
    silent = (now - status.written).total_seconds()
    if silent > (_PHASE_S if status.phase else STALE_S) and status.state != "paused":
        return f"nothing was heard of the daemon for {silent / 60:.0f} minutes"
    if status.state in ("waiting", "waiting for disk"):
        return status.why or status.state
    return None


class Board:
    """Where the daemon writes down what it does; safe to use from several threads.

    Args:
        at: the model repo.
        inbox: the folder that it watches.
        clock: the present in the repo's zone.
        on_status: told every status that is published.

    Raises:
        LockHeld: on entering, another daemon lives, paused or not.
    """

    def __init__(
        self,
        at: Layout,
        inbox: Path,
        clock: Callable[[], datetime],
        on_status: Callable[[WatchStatus], None] | None = None,
    ) -> None:
        self._at, self._clock, self._on_status = at, clock, on_status
        self._lock = lock.Daemon(at, f"mvc watch {inbox}")
        self._guard = threading.RLock()
        self._curve = Curve()
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._told = float("-inf")
        now = clock()
        self._status = WatchStatus(
            root=plain(str(at.root)),
            inbox=plain(str(inbox)),
            pid=os.getpid(),
            host=socket.gethostname(),
            since=now,
            written=now,
        )

    def __enter__(self) -> Self:
        self._lock.__enter__()
        self.update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.update(state="stopped")
        self._lock.__exit__(kind, error, trace)

    @property
    def status(self) -> WatchStatus:
        """The present status."""
        with self._guard:
            return self._status

    def update(self, **changes: Any) -> None:
        """Change fields of the status, and publish it at once."""
        with self._guard:
            told: dict[str, Any] = {
                key: plain(value) if isinstance(value, str) else value
                for key, value in changes.items()
            }
            self._status = replace(self._status, **told)
            self._publish()

    def queue(self, names: Iterable[str]) -> None:
        """The files that wait, the next one first; published where they changed."""
        with self._guard:
            every = tuple(plain(name) for name in names)
            now = (every[:_MOST_NAMES], len(every))
            if now != (self._status.queue, self._status.num_queued):
                self.update(queue=now[0], num_queued=now[1])

    def step(self, report: StepReport) -> None:
        """A logging step is done; published once a second."""
        with self._guard:
            point, now = report.point, self._clock()
            finite = point.loss if isfinite(point.loss) else None
            if finite is not None:
                self._curve.add(now, finite)
            self._status = replace(
                self._status,
                step=point.step,
                num_steps=report.num_steps,
                lifetime_step=point.lifetime_step,
                loss=finite,
                learning_rate=point.learning_rate,
                tokens_per_s=report.tokens_per_s,
                memory_bytes=int(report.memory_bytes),
                seconds_left=report.seconds_left if isfinite(report.seconds_left) else None,
                last_step_time=now,
                phase="",
            )
            self.beat()

    def event(self, text: str, **changes: Any) -> None:
        """Something that a person should read, with the fields that it changes."""
        with self._guard:
            self._events.append(Event(self._clock(), plain(text)))
            self.update(events=tuple(self._events), **changes)

    def beat(self) -> None:
        """The daemon lives; published once a second."""
        with self._guard:
            if time.monotonic() - self._told >= _EVERY_S:
                self._publish()

    def _publish(self) -> None:
        self._told = time.monotonic()
        losses = self._curve.points(self._clock().tzinfo)
        self._status = replace(self._status, written=self._clock(), losses=losses)
        # On a full disk the old file stays, and grows stale as it should.
        with suppress(OSError):
            self._at.watch.mkdir(parents=True, exist_ok=True)
            half = file(self._at).with_suffix(".tmp")
            half.write_bytes(msgspec.json.encode(self._status))
            half.replace(file(self._at))
        if self._on_status is not None:
            self._on_status(self._status)


def plain(text: str) -> str:
    """Without control characters, nor bytes that are no text: names come from other people."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Curve:
    """The mean losses of the last `hours`, in at most `most` stretches of equal length.

    The stretches begin with a second and double when there are too many.
    """

    def __init__(self, hours: float = 6, most: int = 240) -> None:
        self._seconds, self._most = hours * 3600, most
        self._width = 1.0
        self._sums: dict[int, tuple[float, int]] = {}

    def add(self, when: datetime, loss: float) -> None:
        """A logging step's loss."""
        stamp = when.timestamp()
        self._put(int(stamp // self._width), loss, 1)
        oldest = (stamp - self._seconds) // self._width
        while next(iter(self._sums)) < oldest:
            del self._sums[next(iter(self._sums))]
        while len(self._sums) > self._most:
            self._width *= 2
            before, self._sums = self._sums, {}
            for key, (total, number) in before.items():
                self._put(key // 2, total, number)

    def _put(self, key: int, total: float, number: int) -> None:
        there = self._sums.get(key, (0.0, 0))
        self._sums[key] = (there[0] + total, there[1] + number)

    def points(self, zone: Any) -> tuple[LossAt, ...]:
        """The curve, oldest first; a point stands in the middle of its stretch."""
        return tuple(
            LossAt(datetime.fromtimestamp((key + 0.5) * self._width, zone), total / number)
            for key, (total, number) in sorted(self._sums.items())
        )
