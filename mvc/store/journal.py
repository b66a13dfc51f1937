"""The operation in progress, so that a killed one is finished or dropped by the next command.

Owns `.mvc/journal.json`. It is written before the one atomic step of an operation (a ref moves)
and cleared when the workspace agrees with that ref. Decides nothing: `promote.recover` does.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mvc.errors import StoreError
from mvc.operations import Move, Operation
from mvc.store.files import atomic_write, sync_folders
from mvc.store.layout import Layout


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is being done.

    `promote` and `pull` move the branch `ref` from `was` (None: it is created) to `new`; `checkout`
    moves HEAD, `undo` whatever it must, `tag` makes or removes the tag `ref`. `moves` are the refs
    that `pull` and `undo` move, all of them or none. `old` is the commit that the workspace stands
    on (None: none yet), `new` the one it shall stand on. `ref` is the full name of the branch that
    HEAD shall name; empty: HEAD is detached. `head` is what HEAD named before: a full branch name
    or a commit. `pid` is the writer. With `partial` only those files are linked whose objects are
    here (`pull --adapter-only`). `ends` is the folder of the batch in progress that the commit
    ends. `operation` is for the log.
    """

    op: Literal["promote", "checkout", "pull", "undo", "tag"]
    was: str | None
    old: str | None
    new: str
    ref: str
    head: str
    pid: int
    partial: bool = False
    ends: Literal["", "run", "flight"] = ""
    moves: dict[str, Move] = {}
    operation: Operation | None = None


def write(layout: Layout, journal: Journal) -> None:
    """Record `journal`, durably.

    Raises:
        DiskFull: no space left.
    """
    atomic_write(layout.journal, msgspec.json.encode(journal))


def read(layout: Layout) -> Journal | None:
    """The operation that was not finished, or None.

    Raises:
        StoreError: the file is not one that `write` wrote.
    """
    try:
        text = layout.journal.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=Journal)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"{layout.journal} is damaged: {error}",
            "look with `git status` and `dvc status`, then delete that file",
        ) from error


def clear(layout: Layout) -> None:
    """Forget the operation: it is done, or it was dropped."""
    if layout.journal.exists():
        layout.journal.unlink()
        sync_folders([layout.private])
