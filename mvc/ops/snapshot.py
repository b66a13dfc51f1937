"""`mvc snapshot`: pins today for ever, as the annotated tag `snapshot/YYYY-MM-DD`."""

from __future__ import annotations

from datetime import datetime

from mvc.errors import RepoError
from mvc.store import config, git, history, workspace
from mvc.store.layout import SNAPSHOT_PREFIX, Layout, day_of
from mvc.store.lock import Lock
from mvc.types import Snapshot


def snapshot(
    at: Layout,
    message: str | None = None,
    now: datetime | None = None,
    *,
    commit: str = "HEAD",
    wait_s: float = 0,
) -> Snapshot:
    """Pin HEAD as today's snapshot. Asked again on the same commit it answers the same.

    Args:
        at: the model repo.
        message: the tag's text.
        now: decides the day, in the zone of mvc.toml.
        commit: what is pinned instead of HEAD, for a day that was missed.
        wait_s: seconds to wait for another writer.

    Raises:
        RepoError: today is pinned to another commit already; a snapshot is never overwritten.
    """
    with Lock(at, "mvc snapshot", wait_s):
        workspace.recover(at)
        when = (now or datetime.now().astimezone()).astimezone(config.zone(config.load(at)))
        day = when.date().isoformat()
        head = history.commit(at.root, commit)
        found = next(iter(history.snapshots(at.root, day)), None)
        if found and found.commit.commit == head.commit:
            return found
        if found:
            raise RepoError(
                f"{day} is pinned to commit {found.commit.short} already, and a snapshot is "
                "never overwritten",
                f"name this commit with `git tag NAME`, or see the pin with `mvc show {day}`",
            )
        text = message or f"Snapshot of {day}: {head.message.splitlines()[0]}"
        with workspace.tagged(at, f"refs/tags/{SNAPSHOT_PREFIX}{day}"):
            pin(at, day, head.commit, text, when)
        return history.snapshots(at.root, day)[0]


def pin(at: Layout, day: str, commit: str, text: str, when: datetime) -> None:
    """Make the annotated tag of `day` (YYYY-MM-DD); git refuses a second one."""
    stamp = {"GIT_COMMITTER_DATE": f"{int(when.timestamp())} {when.strftime('%z')}"}
    git.write(
        at.root,
        *("tag", "--annotate", "--file=-", f"{SNAPSHOT_PREFIX}{day}", commit),
        env=git.identity(at.root) | stamp,
        stdin=text.encode(),
    )


def snapshots(at: Layout) -> list[Snapshot]:
    """All snapshots, newest day first."""
    return history.snapshots(at.root)


def days(at: Layout) -> list[str]:
    """The days that are pinned, newest first: names alone, however many there are."""
    refs = f"refs/tags/{SNAPSHOT_PREFIX}"
    told = git.read(at.root, "for-each-ref", "--format=%(refname:lstrip=2)", refs)
    found = map(day_of, git.lines(told))
    return sorted((day for day in found if day), reverse=True)
