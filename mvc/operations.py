"""Frozen records of the operation log: what a command changed, so that it can be taken back.

Floor 0, above `types`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from mvc.types import Commit

Move = tuple[str | None, str | None]
"""What a ref named before and after; None: it was not there."""


class Operation(msgspec.Struct, frozen=True):
    """One command that changed something.

    `refs` are those that moved, by full name, `head` is what HEAD named before and after (a
    branch's full name or a commit), `commit` the one whose state the workspace stood on. `extra`
    holds what else there is: `undoes` (the operation that this one took back), `trash` (where
    `mvc gc` put what it deleted), `deleted` (the remotes from which it deleted, by a space),
    `restored` (the trash that came back), `remote` (where a push went). `pid` is the process of
    `user`.
    """

    id: str
    time: datetime
    command: str
    user: str
    pid: int
    refs: dict[str, Move]
    head: tuple[str, str]
    commit: Move
    extra: dict[str, str] = {}

    @property
    def changes(self) -> bool:
        """Whether anything is another after it."""
        pairs = (self.head, self.commit, *self.refs.values())
        return bool(self.extra) or any(before != after for before, after in pairs)


class Logged(msgspec.Struct, frozen=True):
    """An operation and, by their hashes, the commits that it names and that are still there."""

    operation: Operation
    commits: dict[str, Commit]


class UndoResult(msgspec.Struct, frozen=True):
    """An operation that was taken back, by the operation `made`.

    `commit` and `branch` are HEAD's now (`branch` None: detached), `num_files_changed` counts in
    the stored folders, `num_restored` the objects that came back from a trash. `lacks` says of
    how many commits a remote still lacks what the same gc deleted there.
    """

    undone: Operation
    made: Logged
    commit: Commit
    branch: str | None
    num_files_changed: int = 0
    num_restored: int = 0
    lacks: dict[str, int] = {}
