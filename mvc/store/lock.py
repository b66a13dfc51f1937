"""One writer at a time, and one who trains: the locks of a model repo.

Owns `.mvc/lock` (who writes, for moments or for a command) and `.mvc/line` (who trains and moves
HEAD, for as long as `mvc watch` lives), held through the kernel (flock), so that a holder's death
frees them at once, and `.mvc/lock.json`, `.mvc/line.json`, which only tell who holds them. The
details are files of their own because whoever asks for a lock opens its file for writing. The
line is taken before the lock. A third, `.mvc/daemon`, keeps a repo from a second daemon while the
first is paused. Refuses to break a lock that is alive.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from mvc.errors import DiskFull, LockHeld, StoreError
from mvc.store.files import atomic_write, no_space
from mvc.store.layout import Layout

# `holder` takes a free lock for an instant, and must not turn a writer away by it.
_GRACE_S = 0.25
_POLL_S = 0.02
_TELL_S = 1.0
_COMMIT_S = 60.0
"""How long a daemon's commit is waited for: it writes for seconds, `mvc train` for a batch."""


class _Held:
    """One lock file, held while the context lasts; not re-entrant."""

    def __init__(self, layout: Layout, path: Path, command: str, wait_s: float) -> None:
        self._layout, self._path = layout, path
        self._command, self._wait_s = command, wait_s
        self._lock = _file_lock(path)

    def acquire(self) -> None:
        """Take the lock and write down who holds it.

        Raises:
            LockHeld: another process holds it.
            DiskFull: the lock's file cannot be made for want of space.
            StoreError: the repo cannot be written to.
        """
        private = self._layout.private
        if private.is_symlink() or self._path.is_symlink():
            raise StoreError(
                f"{private} is a link, or its lock is: mvc would write where it points to",
                f"remove it (`rm {private}`); mvc makes a folder there",
            )
        try:
            with no_space():
                private.mkdir(exist_ok=True)
                self._take()
        except filelock.Timeout as error:
            raise self._held() from error
        except OSError as error:
            raise StoreError(
                f"{private} cannot be written to: {error.strerror or error}",
                "check the folder's owner and whether its disk is mounted read-only; "
                "`mvc log` and `mvc show` work without writing",
            ) from error
        self._tell()

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=max(self._wait_s, _GRACE_S), poll_interval=_POLL_S)
        except filelock.Timeout:
            if self._path != self._layout.lock:
                raise
            wait_s = _COMMIT_S if self._is_the_daemon_s() else _POLL_S
            self._lock.acquire(timeout=wait_s, poll_interval=_POLL_S)

    def _is_the_daemon_s(self) -> bool:
        """Whether a daemon holds it. A holder writes its name a moment after it has the lock."""
        until = time.monotonic() + _TELL_S
        while not _details(self._path).exists() and time.monotonic() < until:
            time.sleep(_POLL_S)
        return "`mvc watch" in _described(self._path)

    def _held(self) -> LockHeld:
        who = _described(self._path)
        if self._path == self._layout.daemon:
            return LockHeld(
                f"this repo has a daemon already: {who}", "`mvc watch --status` tells what it does"
            )
        if self._path == self._layout.line and "mvc watch" in who:
            return LockHeld(
                f"this repo is being trained on: {who}",
                "`mvc watch --pause` makes it let go between two batches, "
                "`mvc watch --resume` lets it go on",
            )
        return LockHeld(
            f"another process writes to this repo: {who}",
            "wait for it to end; `mvc status` tells how far it is",
        )

    def release(self) -> None:
        """Let go of the lock."""
        with contextlib.suppress(OSError):
            _details(self._path).unlink(missing_ok=True)
        self._lock.release()

    def _tell(self) -> None:
        """Write who holds the lock, at best: on a full disk `mvc gc` must still get it."""
        details = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "command": self._command,
            "since": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        }
        path = _details(self._path)
        try:
            atomic_write(path, json.dumps(details).encode())
        except (OSError, DiskFull):
            # What an earlier holder left there would name the wrong one.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class Lock:
    """The right to write to a model repo, as a context manager; not re-entrant.

    Args:
        layout: The repo; its `.mvc/` is made where it is absent.
        command: The command that holds it, as the user typed it.
        wait_s: Seconds to wait for another holder before giving up.
        moves: It trains or moves HEAD, which nobody may beside a daemon: takes the line too.

    Raises:
        LockHeld: on entering, another process holds it; the message names that process.
        DiskFull: on entering, the lock's file cannot be made for want of space.
        StoreError: on entering, the repo cannot be written to.
    """

    def __init__(
        self, layout: Layout, command: str, wait_s: float = 0, *, moves: bool = False
    ) -> None:
        paths = [layout.line, layout.lock] if moves else [layout.lock]
        self._locks = [_Held(layout, path, command, wait_s) for path in paths]

    def __enter__(self) -> Self:
        taken: list[_Held] = []
        try:
            for lock in self._locks:
                lock.acquire()
                taken.append(lock)
        except BaseException:
            for lock in reversed(taken):
                lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lock in reversed(self._locks):
            lock.release()


class Line(Lock):
    """The right to train and to move HEAD, without the right to write: what a daemon keeps."""

    def __init__(self, layout: Layout, command: str) -> None:
        self._locks = [_Held(layout, layout.line, command, 0)]


class Daemon(Lock):
    """The right to be this repo's daemon, paused or not."""

    def __init__(self, layout: Layout, command: str) -> None:
        self._locks = [_Held(layout, layout.daemon, command, 0)]


def holder(layout: Layout) -> str | None:
    """Who writes to a repo or trains on it, in words, or None where nobody alive does.

    Takes a free lock for an instant at most; a holder is not disturbed.
    """
    return _alive(layout.lock) or _alive(layout.line)


def trainer(layout: Layout) -> str | None:
    """Who trains on a repo for good (`mvc watch`) or just now, in words, or None."""
    return _alive(layout.line)


def daemon(layout: Layout) -> str | None:
    """The daemon that lives for a repo, paused or not, in words, or None."""
    return _alive(layout.daemon)


def author(layout: Layout) -> tuple[str, str]:
    """The command for which this process holds the write lock (else empty), and its user."""
    try:
        told = json.loads(_details(layout.lock).read_text(encoding="utf-8"))
        return (str(told["command"]) if told["pid"] == os.getpid() else ""), _user()
    except (OSError, ValueError, KeyError, TypeError):
        return "", _user()


def _alive(path: Path) -> str | None:
    if not _details(path).exists():
        return None
    lock = _file_lock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return _described(path)
    except OSError:
        # A reader without the right to write cannot ask the kernel; the file's word must do.
        return _described(path)
    lock.release()
    return None


def _file_lock(path: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(path, thread_local=False)


def _details(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _described(path: Path) -> str:
    try:
        told = json.loads(_details(path).read_text(encoding="utf-8"))
        return (
            f"`{told['command']}`, process {told['pid']} of {told['user']} on {told['host']}, "
            f"since {told['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that did not say its name"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
