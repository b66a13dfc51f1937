"""The operation log: each command that changed something, so that `mvc undo` can take it back.

Owns `.mvc/oplog.jsonl`, one operation a line, only ever appended to, and the names of the refs
that keep what was undone from `git gc`. A line that a crash tore is passed over. An operation
comes from the journal, after the ref has moved (`promote`), so that it is in the log exactly when
it happened; taking it back is `workspace.retrace`'s.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path

import msgspec

from mvc.errors import RepoError
from mvc.operations import Move, Operation
from mvc.store import git, lock, tracked
from mvc.store.files import no_space, sync_folders
from mvc.store.layout import Layout

_KEPT = "refs/undone/"
_DECODER = msgspec.json.Decoder(Operation)
_RECENT = 16  # a push may come between an operation and its second append


def operation(
    layout: Layout,
    refs: Mapping[str, Move],
    head: tuple[str, str],
    commit: Move,
    *,
    command: str = "",
    **extra: str,
) -> Operation:
    """What is about to happen, as the log will tell it.

    Args:
        layout: The repo.
        refs: Those that move, by full name.
        head: What HEAD names before and after.
        commit: The one that the workspace stands on, before and after.
        command: By default the one for which this process holds the lock.
        extra: See `Operation`.
    """
    held, user = lock.author(layout)
    return Operation(
        id=secrets.token_hex(4),
        time=datetime.now().astimezone(),
        command=command or held,
        user=user,
        pid=os.getpid(),
        refs=dict(refs),
        head=head,
        commit=commit,
        extra=extra,
    )


def append(layout: Layout, done: Operation) -> None:
    """Put an operation into the log, durably and once; one that changed nothing is left out.

    Raises:
        DiskFull: no space left; what a half-written line holds is passed over.
    """
    if not done.changes or any(each.id == done.id for each in islice(entries(layout), _RECENT)):
        return
    path = layout.oplog
    with no_space("what it would tell is done"):
        layout.private.mkdir(exist_ok=True)
        is_new = not path.exists()
        with path.open("a+b", buffering=0) as file:
            line = msgspec.json.encode(done) + b"\n"
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        if is_new:
            sync_folders([layout.private])


def note(layout: Layout, *, command: str = "", **extra: str) -> None:
    """Log what moved no ref: a push (`remote`), a gc (`trash`), the undo of one.

    Raises:
        DiskFull: no space left.
    """
    head, here = tracked.head_name(layout.root), tracked.commit_of(layout.root, "HEAD")
    append(layout, operation(layout, {}, (head, head), (here, here), command=command, **extra))


def entries(layout: Layout) -> Iterator[Operation]:
    """All operations, newest first; as many as are asked for are read."""
    try:
        file = layout.oplog.open("rb")
    except FileNotFoundError:
        return
    with file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = len(text)
            while end > 0:
                start = text.rfind(b"\n", 0, end - 1) + 1
                line, end = text[start:end], start
                try:
                    yield _DECODER.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue


def find(layout: Layout, name: str | None = None) -> Operation:
    """The operation whose id begins with `name`; by default the last.

    Raises:
        RepoError: there is none, or several.
    """
    found = [each for each in entries(layout) if each.id.startswith(name)] if name else []
    if name is None:
        found = list(islice(entries(layout), 1))
    if len(found) == 1:
        return found[0]
    if found:
        raise RepoError(
            f"several operations begin with {name}: {', '.join(each.id for each in found)}",
            "write more of its id; `mvc ops` lists them",
        )
    if name is None:
        raise RepoError("nothing is in the operation log yet", "`mvc log` shows the history")
    raise RepoError(f"there is no operation {name}", "`mvc ops` lists them, newest first")


def keep_refs(done: Operation) -> dict[str, Move]:
    """Refs that keep what the refs of an undo named before it, so that git never prunes it."""
    return {
        f"{_KEPT}{done.id}/{ref.removeprefix('refs/')}": (None, before)
        for ref, (before, _) in done.refs.items()
        if before
    }


def protected(layout: Layout, count: int, since: datetime | None = None) -> dict[str, str]:
    """The commits that undoing the newest `count` operations needs, each with the reason.

    Also what was taken back `since` then, so that the undo can be taken back.
    """
    named: dict[str, str] = {}
    for number, each in enumerate(entries(layout)):
        recent = since is not None and each.time >= since
        if number >= count and not recent:
            break
        shas: Iterable[str | None] = ()
        if number < count:
            shas = (*each.commit, *(sha for pair in each.refs.values() for sha in pair))
        elif "undoes" in each.extra:
            shas = (before for before, _ in each.refs.values())
        for sha in shas:
            if sha:
                named.setdefault(sha, f"undo {each.id}")
    peeled = commits_of(layout.root, named)
    return {commit: named[sha] for sha, commit in peeled.items()}


def commits_of(root: Path, names: Iterable[str]) -> dict[str, str]:
    """The commits that these objects (commits, tags) lead to, for those that are there."""
    asked = list(dict.fromkeys(names))
    stdin = "".join(f"{name}^{{commit}}\n" for name in asked).encode()
    told = git.read_bytes(root, "cat-file", "--batch-check=%(objectname)", stdin=stdin).decode()
    pairs = zip(asked, git.lines(told), strict=True)
    return {name: line for name, line in pairs if not line.endswith(("missing", "ambiguous"))}
