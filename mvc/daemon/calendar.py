"""The calendar: a snapshot a day, of the last committed state at the hour of mvc.toml.

Owns which days are due, also those that were missed while no daemon lived, and which commit stood
then. A day's first moment counts, be an hour skipped or repeated by a clock change. The snapshot
itself is `ops.snapshot`'s, which overwrites none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

import msgspec

from mvc.daemon.logs import DaemonProgress
from mvc.errors import LockHeld, MvcError
from mvc.ops import snapshot
from mvc.settings import SnapshotSettings
from mvc.store import config, history, packing, workspace
from mvc.store.files import atomic_write
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import Commit

_LOOK_S = 20.0
_WAIT_S = 5.0
_RETRY_S = 900.0
_LONGEST_S = 6 * 3600.0
"""How long a snapshot waits for another writer before it is tried again at the next look."""
_PAGE, _LARGEST_PAGE = 32, 4096
"""Commits read at a time: on most nights a day's, after months without a daemon the whole line."""


class Due(msgspec.Struct, frozen=True):
    """A day's snapshot and the moment whose state it holds."""

    day: str
    at: datetime


def due(at: str, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Due]:
    """The first moment of each day that `at` names, after `since` and not after `until`.

    Args:
        at: `[snapshot] at`: HH:MM, or a cron expression of five fields.
        zone: whose days and hours count. A skipped time is due where the clock jumped to, a
            repeated one at its first pass.
        since: timezone-aware.
        until: timezone-aware.
    """
    from croniter import CroniterBadDateError, croniter

    hour, colon, minute = at.partition(":")
    expression = f"{int(minute)} {int(hour)} * * *" if colon else at
    # As instants: two times of one zone compare by what its clock shows, which may repeat.
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    # From the day's beginning, so that a second moment of the day is not taken for its first.
    midnight = datetime.combine(since.astimezone(zone).date(), clock_time(), zone)
    while True:
        before = (midnight.astimezone(UTC) - timedelta(seconds=1)).astimezone(zone)
        try:
            found: datetime = croniter(expression, before).get_next(datetime)
        except CroniterBadDateError:  # a 31st of February
            return
        if found > until:
            return
        if found > since:
            yield Due(found.date().isoformat(), found)
        midnight = datetime.combine(found.date() + timedelta(days=1), clock_time(), zone)


class Calendar:
    """Makes the snapshots while the daemon lives; on entering, those that were missed.

    Args:
        at: the model repo.
        told: hears of snapshots and trouble.
        clock: the present, timezone-aware.
    """

    def __init__(
        self,
        at: Layout,
        told: DaemonProgress,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._at, self._told, self._clock = at, told, clock
        self._stop = threading.Event()
        # Whoever ends the daemon does not wait for a push: the next one goes on where it was.
        self._thread = threading.Thread(target=self._run, name="mvc-calendar", daemon=True)
        self._said = ""
        self._unsent = at.watch / "unsent"
        self._not_before = 0.0

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_WAIT_S)

    def _run(self) -> None:
        while True:
            try:
                self.send()
                if self._stop.wait(_LOOK_S):
                    return
                self.look()
            except Exception as error:  # the next night must have its snapshot, whatever it was
                self._told.warn(f"The calendar met {type(error).__name__}: {error}")
                if self._stop.wait(_RETRY_S):
                    return

    def look(self) -> None:
        """Make the snapshots that are due; what stands in the way is told once, and tried again."""
        try:
            settings = config.load(self._at)
            self._make(settings.snapshot, config.zone(settings))
        except LockHeld:
            return  # another command writes; the moment's commit does not change meanwhile
        except (MvcError, OSError) as error:
            hint = f". {error.hint}" if isinstance(error, MvcError) else ""
            if self._said != (text := f"No snapshot: {error}{hint}"):
                self._told.warn(text)
            self._said = text
        else:
            self._said = ""

    def _make(self, settings: SnapshotSettings, zone: ZoneInfo) -> None:
        now = self._clock()
        since = self._since(zone, now)
        if next(due(settings.at, zone, since, now), None) is None:
            return
        with Lock(self._at, "mvc watch", _WAIT_S):
            # A commit that was made before the hour, and is still on its way, lands first.
            workspace.recover(self._at)
        pinned = set(snapshot.days(self._at))
        kept, quiet = set[str](), []
        for each, commit in _stood(self._at.root, list(due(settings.at, zone, since, now))):
            if each.day not in pinned and commit is not None:
                if commit.snapshots or commit.commit in kept:
                    quiet.append(each.day)
                else:
                    atomic_write(self._unsent, b"")
                    made = snapshot.snapshot(
                        self._at, now=each.at, commit=commit.commit, wait_s=_WAIT_S
                    )
                    kept.add(commit.commit)
                    self._told.pinned(made)
                    self._remember(each.at)
        self._remember(each.at)
        if quiet:
            days = quiet[0] if len(quiet) == 1 else f"{len(quiet)} days to {quiet[-1]}"
            self._told.note(f"No snapshot of {days}: no commit since the last one")

    def send(self) -> None:
        """What mvc.toml wants done after a snapshot; what failed is tried again later."""
        if not self._unsent.exists() or time.monotonic() < self._not_before:
            return
        self._not_before = time.monotonic() + _RETRY_S
        try:
            wanted = config.load(self._at).snapshot
        except MvcError as error:
            self._told.warn(f"After the snapshot: {error}. {error.hint}")
            return
        self._pack()
        commands = [["push", wanted.push]] if wanted.push else []
        commands += [["gc", "--apply"]] if wanted.gc else []
        for words in commands:
            told = f"`mvc {' '.join(words)}` after the snapshot"
            if why := self._failed(words):
                # What a push did not send must not be collected: both wait.
                self._told.warn(f"{told} failed: {why}; it is tried again")
                return
            self._told.note(f"{told} is done")
        self._unsent.unlink(missing_ok=True)
        self._not_before = 0.0

    def _pack(self) -> None:
        """Let git pack the day's objects; where somebody writes just now, another day will do."""
        try:
            packing.pack(self._at)
        except LockHeld:
            return
        except MvcError as error:
            self._told.warn(f"`git gc` after the snapshot: {error}. {error.hint}")

    def _failed(self, words: list[str]) -> str | None:
        """Run `mvc WORDS`; why it failed, None where it did not.

        A process of its own: nothing of it, not even a random number that a server's client
        draws, gets into the batch that is training. Safe path: the repo is a stranger's folder,
        and Python would import a `click.py` that lies in it.
        """
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", "from mvc.cli.main import main; main()", *words],
                cwd=self._at.root,
                env=os.environ | {"PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LONGEST_S,
            )
        except subprocess.TimeoutExpired:
            return f"it took longer than {_LONGEST_S / 3600:g} hours"
        return " ".join(done.stderr.split()) if done.returncode else None

    # --- what was looked at already -------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self._at.watch / "calendar.json"

    def _remember(self, moment: datetime) -> None:
        """That all is done up to a moment, also where there was nothing to pin."""
        atomic_write(self._file, json.dumps({"done": moment.isoformat()}).encode())

    def _since(self, zone: ZoneInfo, now: datetime) -> datetime:
        """The last moment that was looked at, else the last snapshot, else the first commit."""
        try:
            done = datetime.fromisoformat(json.loads(self._file.read_text())["done"])
            # After a clock that went wrong, and back, all would be done for months.
            if done.tzinfo is not None and done <= now:
                return done
        except (OSError, ValueError, KeyError, TypeError):
            pass
        today = now.astimezone(zone).date()
        days = map(date.fromisoformat, snapshot.days(self._at))
        if last := next((day for day in days if day <= today), None):
            return datetime.combine(last, clock_time(), zone)
        first = [each.time for each in _line(self._at.root)][-1]
        # The first commit may be of the very second that is due.
        return min(first, now) - timedelta(seconds=1)


def _line(root: Path) -> Iterator[Commit]:
    """The first parents of HEAD, newest first."""
    at: str | None = "HEAD"
    limit = _PAGE
    while at is not None:
        page = history.log(root, at, limit)
        yield from page
        at = next(iter(page[-1].parents), None)
        limit = min(2 * limit, _LARGEST_PAGE)


def _stood(root: Path, dues: list[Due]) -> list[tuple[Due, Commit | None]]:
    """For each moment the last commit of HEAD's line that was made by then, in their order."""
    line = _line(root)
    commit = next(line, None)
    found = []
    for each in reversed(dues):
        while commit is not None and commit.time > each.at:
            commit = next(line, None)
        found.append((each, commit))
    return found[::-1]
