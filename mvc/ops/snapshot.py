"""`mvc snapshot`: pins today for ever, as the annotated tag `snapshot/YYYY-MM-DD`."""

from __future__ import annotations

from datetime import datetime

from mvc.errors import RepoError
from mvc.store import config, git, history, workspace
from mvc.store.layout import SNAPSHOT_PREFIX, Layout
from mvc.store.lock import Lock
from mvc.types import Snapshot


def snapshot(at: Layout, message: str | None = None, now: datetime | None = None) -> Snapshot:
    """Pin HEAD as today's snapshot. Asked again on the same commit it answers the same.

    Args:
        at: the model repo.
        message: the tag's text.
        now: decides the day, in the zone of mvc.toml.

    Raises:
        RepoError: today is pinned to another commit already; a snapshot is never overwritten.
    """
    with Lock(at, "mvc snapshot"):
        workspace.recover(at)
        when = (now or datetime.now().astimezone()).astimezone(config.zone(config.load(at)))
        day = when.date().isoformat()
        head = history.commit(at.root)
        found = next((s for s in history.snapshots(at.root) if s.day == day), None)
        if found and found.commit.commit == head.commit:
            return found
        if found:
            raise RepoError(
                f"{day} is pinned to commit {found.commit.short} already, and a snapshot is "
                "never overwritten",
                f"name this commit with `git tag NAME`, or see the pin with `mvc show {day}`",
            )
        text = message or f"Snapshot of {day}: {head.message.splitlines()[0]}"
        stamp = {"GIT_COMMITTER_DATE": f"{int(when.timestamp())} {when.strftime('%z')}"}
        git.write(
            at.root,
            *("tag", "--annotate", "--file=-", f"{SNAPSHOT_PREFIX}{day}", head.commit),
            env=git.identity(at.root) | stamp,
            stdin=text.encode(),
        )
        return next(s for s in history.snapshots(at.root) if s.day == day)


def snapshots(at: Layout) -> list[Snapshot]:
    """All snapshots, newest day first."""
    return history.snapshots(at.root)
