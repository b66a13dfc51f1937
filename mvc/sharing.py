"""Frozen records of what sharing did: floor 0, as `types`, whose records they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvc.types import Commit, Transfer


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push sent.

    `commits` are those that the remote's branch or snapshots lacked, newest first, `snapshots`
    the tags that went along. `differing` are snapshots that both sides have with another
    content; each keeps its own. `behind` counts the commits of the remote's branch that are not
    here; then nothing was pushed to it.
    """

    remote: str
    branch: str
    head: Commit
    commits: tuple[Commit, ...]
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    behind: int
    objects: Transfer


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a fetch brought: the branch's commits that are not in ours yet, snapshots, objects.

    `branch` is None where HEAD is on none, or the remote has none of that name.
    """

    remote: str
    branch: str | None
    ahead: int
    commits: tuple[Commit, ...]
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    objects: Transfer


@dataclass(frozen=True, slots=True)
class PullResult:
    """Where a pull arrived.

    `commits` came to the branch, newest first. `kept_as` is the branch that keeps what was here
    before, where both sides had trained. `partial` is true while current_model/ holds only what
    inference needs.
    """

    remote: str
    branch: str
    head: Commit
    commits: tuple[Commit, ...]
    kept_as: str | None
    partial: bool
    snapshots: tuple[str, ...]
    differing: tuple[str, ...]
    num_files_changed: int
    objects: Transfer


@dataclass(frozen=True, slots=True)
class CloneResult:
    """A new clone of a model repo; `partial` as in `PullResult`."""

    root: Path
    remote: str
    branch: str
    head: Commit
    num_commits: int
    snapshots: tuple[str, ...]
    partial: bool
    objects: Transfer
