"""Pausing the daemon, so that another command may train or move HEAD.

Owns the request, the file `.mvc/watch/pause`: while it is there a daemon lets go of the line
between two batches, and one that is started then waits. It outlives both processes.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from mvc.daemon import status
from mvc.errors import LockHeld, RepoError
from mvc.store import lock
from mvc.store.files import atomic_write
from mvc.store.layout import Layout
from mvc.types import SILENT, Progress

_POLL_S = 0.2


def request(at: Layout) -> Path:
    """The file that asks the daemon to pause."""
    return at.watch / "pause"


def wanted(at: Layout) -> bool:
    """Whether the daemon shall be paused; it asks between two batches and while it waits."""
    return request(at).exists()


def pause(at: Layout, *, timeout_s: float | None = None, progress: Progress = SILENT) -> str | None:
    """Ask the daemon to pause, and wait until it has let go of the line.

    Args:
        at: the model repo.
        timeout_s: how long to wait for the batch in progress; None: as long as it takes.
        progress: hears what is waited for.

    Returns:
        The daemon that is paused, in words; None where none lives: one that starts waits too.

    Raises:
        LockHeld: it has not let go in time; the request stands.
        RepoError: `resume` was called meanwhile.
        DiskFull: there is no room for the request.
    """
    if not wanted(at):
        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        atomic_write(request(at), json.dumps({"since": now}).encode())
    until = None if timeout_s is None else time.monotonic() + timeout_s
    said = ""
    while (who := lock.trainer(at)) and "mvc watch" in who:
        if not wanted(at):
            raise RepoError(
                "the daemon was told to go on meanwhile", "ask again with `mvc watch --pause`"
            )
        if until is not None and time.monotonic() > until:
            raise LockHeld(
                f"the daemon has not paused after {timeout_s:g} seconds: {who}",
                "it will, after the batch in progress: `mvc watch --status` tells how far that "
                "is, and `mvc watch --resume` takes the request back",
            )
        if (text := _waiting(at)) != said:
            said = text
            progress.stage(text)
        time.sleep(_POLL_S)
    return lock.daemon(at)


def _waiting(at: Layout) -> str:
    now = status.read(at)
    if now is None or now.state != "training" or now.batch is None:
        return "Waiting for the daemon to pause"
    return f"Waiting for the daemon to finish {now.batch} ({now.num_steps} steps)"


def resume(at: Layout) -> str | None:
    """Take back the request to pause; asked again, it changes nothing.

    Returns:
        The daemon that goes on, in words; None where none lives.
    """
    request(at).unlink(missing_ok=True)
    return lock.daemon(at)
