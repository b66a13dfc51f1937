"""One writer at a time: the lock of a model repo.

Owns `.mvc/lock`, held through the kernel (flock), so that a holder's death frees it at once, and
`.mvc/lock.json`, which only tells who holds it. The details are a file of their own because
whoever asks for the lock opens its file for writing. Refuses to break a lock that is alive.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
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


class Lock:
    """The right to write to a model repo, as a context manager; not re-entrant.

    Args:
        layout: The repo; its `.mvc/` is made where it is absent.
        command: The command that holds it, as the user typed it.
        wait_s: Seconds to wait for another holder before giving up.

    Raises:
        LockHeld: on entering, another process holds it; the message names that process.
        DiskFull: on entering, the lock's file cannot be made for want of space.
        StoreError: on entering, the repo cannot be written to.
    """

    def __init__(self, layout: Layout, command: str, wait_s: float = 0) -> None:
        self._layout = layout
        self._command = command
        self._wait_s = wait_s
        self._lock = _file_lock(layout)

    def __enter__(self) -> Self:
        if self._layout.private.is_symlink() or self._layout.lock.is_symlink():
            raise StoreError(
                f"{self._layout.private} is a link, or its lock is: mvc would write where it "
                "points to",
                f"remove it (`rm {self._layout.private}`); mvc makes a folder there",
            )
        try:
            with no_space():
                self._layout.private.mkdir(exist_ok=True)
                self._lock.acquire(timeout=max(self._wait_s, _GRACE_S), poll_interval=_POLL_S)
        except filelock.Timeout as error:
            raise LockHeld(
                f"another process writes to this repo: {_described(self._layout)}",
                "wait for it to end; `mvc status` tells how far it is",
            ) from error
        except OSError as error:
            raise StoreError(
                f"{self._layout.private} cannot be written to: {error.strerror or error}",
                "check the folder's owner and whether its disk is mounted read-only; "
                "`mvc log` and `mvc show` work without writing",
            ) from error
        self._tell()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            _details(self._layout).unlink(missing_ok=True)
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
        path = _details(self._layout)
        try:
            atomic_write(path, json.dumps(details).encode())
        except (OSError, DiskFull):
            # What an earlier holder left there would name the wrong one.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def holder(layout: Layout) -> str | None:
    """Who holds the lock of a repo, in words, or None where nobody alive does.

    Takes a free lock for an instant at most; a holder is not disturbed.
    """
    if not _details(layout).exists():
        return None
    lock = _file_lock(layout)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return _described(layout)
    except OSError:
        # A reader without the right to write cannot ask the kernel; the file's word must do.
        return _described(layout)
    lock.release()
    return None


def _file_lock(layout: Layout) -> filelock.BaseFileLock:
    return filelock.FileLock(layout.lock, thread_local=False)


def _details(layout: Layout) -> Path:
    return layout.private / "lock.json"


def _described(layout: Layout) -> str:
    try:
        told = json.loads(_details(layout).read_text(encoding="utf-8"))
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
