"""`mvc pin`: a revision that no policy touches, as the tag `pin/...`.

A tag, so that plain git shows and keeps it. It is this clone's own until `git push REMOTE TAG`
carries it; a `mvc gc --remote` sees the remote's tags, and leaves what they name alone.
"""

from __future__ import annotations

import shlex
from datetime import datetime

from mvc.errors import RepoError, StoreError
from mvc.keeping import Pin, State
from mvc.ops import trashed
from mvc.ops.given_up import left_of
from mvc.ops.keep import PIN_PREFIX
from mvc.ops.revision import resolve
from mvc.store import config, git, history, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock


def pin(at: Layout, rev: str, message: str | None = None, *, now: datetime | None = None) -> Pin:
    """Keep the state of `rev` whole, whatever the policy says, and bring back what the trash has.

    Asked again it answers the same.

    Raises:
        RevisionNotFound: `rev` names no commit.
    """
    with Lock(at, f"mvc pin {shlex.quote(rev)}", 60):
        workspace.recover(at)
        commit = resolve(at, rev, now).commit
        when = now or datetime.now(config.zone(config.load(at)))
        if _of(at, commit) is None:
            stamp = {"GIT_COMMITTER_DATE": f"{int(when.timestamp())} {when:%z}"}
            name = f"{PIN_PREFIX}{commit[:10]}"
            text = message or f"Pin of {rev}"
            with workspace.tagged(at, f"refs/tags/{name}"):
                git.write(
                    at.root,
                    *("tag", "--annotate", "--file=-", name, commit),
                    env=git.identity(at.root) | stamp,
                    stdin=text.encode(),
                )
        trashed.of_commit(at, commit)  # a gc may have taken it before
        made = _of(at, commit)
        assert made is not None
        return made


def unpin(at: Layout, rev: str, *, now: datetime | None = None) -> Pin:
    """Let the policy have `rev` again.

    Raises:
        RevisionNotFound: `rev` names no commit.
        RepoError: it is not pinned.
    """
    with Lock(at, f"mvc pin --remove {shlex.quote(rev)}", 60):
        workspace.recover(at)
        commit = resolve(at, rev, now).commit
        found = _of(at, commit)
        if found is None:
            raise RepoError(f"{rev} ({commit[:10]}) is not pinned", "`mvc pin` lists the pins")
        with workspace.tagged(at, f"refs/tags/{found.name}"):
            git.write(at.root, "update-ref", "-d", f"refs/tags/{found.name}")
    return found


def pins(at: Layout) -> list[Pin]:
    """All pins, newest commit first."""
    form = "--format=%(refname:strip=2)%00%(objectname)%00%(*objectname)%00%(contents)%00"
    cells = git.read(at.root, "for-each-ref", form, f"refs/tags/{PIN_PREFIX}").split("\0")
    rows = [[cell.strip("\n") for cell in cells[n : n + 4]] for n in range(0, len(cells) - 1, 4)]
    commits = history.commits(at.root, [peeled or name for _, name, peeled, _ in rows])
    pairs = zip(rows, commits, strict=True)
    # A lightweight tag, made by hand, shows its commit's message.
    found = [
        Pin(name, commit, message.strip() if peeled else "", _here(at, commit.commit))
        for (name, _, peeled, message), commit in pairs
    ]
    return sorted(found, key=lambda each: each.commit.time, reverse=True)


def _here(at: Layout, commit: str) -> State:
    try:
        return left_of(at, commit)
    except StoreError:  # `mvc fsck` tells what is damaged; a list of pins does not end at it
        return "absent"


def _of(at: Layout, commit: str) -> Pin | None:
    return next((each for each in pins(at) if each.commit.commit == commit), None)
