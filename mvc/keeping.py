"""Frozen records of retention: what is kept and why, what goes, where the bytes are. Floor 0."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from mvc.types import Commit, Finding

State = Literal["whole", "thin", "absent"]
"""What is kept of a commit's state: all of it; the adapter without the moments; nothing."""
LEAST: list[State] = ["absent", "thin", "whole"]
Part = Literal["adapter", "moments", "data", "small"]
"""Where a stored file belongs: `small` are configuration, tokenizer and lists of files."""


class KeptCommit(msgspec.Struct, frozen=True):
    """A commit whose state stays, `whole` or `thin`, and the reasons for it, in words.

    `here` is what there is of it on this machine, which may be less.
    """

    commit: Commit
    state: State
    reasons: tuple[str, ...]
    here: State


class GcRow(msgspec.Struct, frozen=True):
    """A commit that changes; `num_bytes` are freed here, `reasons` keep what is left of it."""

    commit: Commit
    before: State
    after: State
    num_bytes: int
    reasons: tuple[str, ...]


class RemoteShare(msgspec.Struct, frozen=True):
    """What goes from a remote; `num_unique_bytes` of it are not on this machine, so gone for good.

    `commits` change there (a hash, and what is left of it).
    """

    remote: str
    num_objects: int
    num_bytes: int
    num_unique_bytes: int
    commits: tuple[tuple[str, State], ...]


class GcPlan(msgspec.Struct, frozen=True):
    """What `mvc gc` would do, or did.

    `policy` tells whether there is any rule; without one nothing goes. `num_objects` and
    `num_bytes` go from here into the trash, `num_stray_bytes` of them named by no commit.
    `num_back` objects of `num_back_bytes` come back from the trash, because a commit that is kept
    by now needs them. `expired` are trashes that are older than [keep] trash, `num_expired_bytes`
    their bytes.
    """

    policy: bool
    rows: tuple[GcRow, ...]
    kept: tuple[KeptCommit, ...]
    num_objects: int
    num_bytes: int
    num_stray_bytes: int
    remotes: tuple[RemoteShare, ...]
    expired: tuple[str, ...]
    num_expired_bytes: int
    findings: tuple[Finding, ...]
    num_back: int = 0
    num_back_bytes: int = 0


class GcResult(msgspec.Struct, frozen=True):
    """A plan, whether it was carried out, and the trash that holds what went."""

    plan: GcPlan
    applied: bool
    trash: str | None = None


class Trash(msgspec.Struct, frozen=True):
    """Deleted objects that can still be brought back, by `mvc gc --restore ID`."""

    id: str
    time: datetime
    num_objects: int
    num_bytes: int


class Restored(msgspec.Struct, frozen=True):
    """What came back from a trash."""

    trash: str
    num_objects: int
    num_bytes: int


class Pin(msgspec.Struct, frozen=True):
    """A revision that no policy touches: the tag `pin/...` at `commit`; `here` is what there is
    of its state."""

    name: str
    commit: Commit
    message: str
    here: State


class CommitBytes(msgspec.Struct, frozen=True):
    """The bytes of one commit's objects that are here: all, and those that no other names."""

    commit: Commit
    state: State
    num_bytes: int
    num_unique_bytes: int


class DayBytes(msgspec.Struct, frozen=True):
    """The bytes that a day's commits added: those that no earlier commit names."""

    day: str
    num_commits: int
    num_bytes: int


class RemoteBytes(msgspec.Struct, frozen=True):
    """A remote's objects that our commits name; None where its protocol tells no sizes."""

    remote: str
    num_objects: int
    num_bytes: int | None


class DuResult(msgspec.Struct, frozen=True):
    """Where the bytes are.

    `num_bytes` are those of the cache, each object once, `parts` splits those that commits name,
    `num_stray_bytes` no commit names. `num_shared_bytes` are named by several commits.
    `num_free_bytes` is what `mvc gc` would free here (None without a policy).
    """

    num_objects: int
    num_bytes: int
    parts: dict[Part, int]
    num_shared_bytes: int
    num_stray_bytes: int
    num_free_bytes: int | None
    trash: tuple[Trash, ...]
    commits: tuple[CommitBytes, ...]
    days: tuple[DayBytes, ...]
    remotes: tuple[RemoteBytes, ...]
