"""What `mvc gc` gave up of which commits, so that nobody takes it for damage.

Owns `.mvc/collected` (here) and, on a remote, the same text in commits of its own under
`refs/mvc/gc/`, which only move forward: lines of a commit and what is left of it. It is written
before the first object goes. An entry says what was decided; an object that is there all the same
is as good as any. Whoever can push to a remote can write anything there: of a branch's head, and
of all of a snapshot, which gc never gives up, no remote's record is believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from mvc.keeping import State
from mvc.store import git
from mvc.store.files import atomic_write
from mvc.store.layout import SNAPSHOT_PREFIX, Layout

REF = "refs/mvc/gc/collected"
_FILE = "collected"
_LIMIT = 64 << 20  # bytes: a million commits
_LINE = re.compile(r"([0-9a-f]{40,64}) (thin|absent)")


def read(layout: Layout, remote: str | None = None) -> dict[str, State]:
    """The commits that lost some or all of their state here, or on a remote as last seen."""
    if remote is not None:
        return _believed(layout, remote)
    try:
        return _states(layout.collected.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _believed(layout: Layout, remote: str) -> dict[str, State]:
    """What a remote's record may say."""
    root, blob = layout.root, f"{_seen(remote)}:{_FILE}"
    size = git.try_read(root, "cat-file", "-s", blob)
    if size is None or int(size) > _LIMIT:
        return {}
    states = _states(git.try_read(root, "cat-file", "blob", blob) or "")
    days = f"refs/mvc/{remote}/{SNAPSHOT_PREFIX}".removesuffix("/")
    form = "--format=%(refname)%00%(objectname)%00%(*objectname)"
    told = git.read(root, "for-each-ref", form, f"refs/remotes/{remote}", days)
    for line in git.lines(told):
        ref, name, peeled = line.split("\0")
        commit = peeled or name  # an annotated tag's is the second
        if not ref.startswith(days) or states.get(commit) == "absent":
            states.pop(commit, None)
    return states


def _states(text: str) -> dict[str, State]:
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return {found[1]: cast(State, found[2]) for found in lines if found}


def write(layout: Layout, states: Mapping[str, State]) -> None:
    """Replace the record of this machine, durably.

    Raises:
        DiskFull: no space left; the old record is whole.
    """
    if states:
        atomic_write(layout.collected, _text(states))
    else:
        layout.collected.unlink(missing_ok=True)


def forget(layout: Layout, commits: Sequence[str]) -> None:
    """These commits are whole again; under the lock."""
    known = read(layout)
    left = {commit: state for commit, state in known.items() if commit not in set(commits)}
    if len(left) < len(known):
        write(layout, left)


def commit(layout: Layout, remote: str, states: Mapping[str, State]) -> str:
    """Put a new record for a remote into git, after the last one seen; for a push to `REF`."""
    root = layout.root
    blob = git.write(root, "hash-object", "-w", "--stdin", stdin=_text(states))
    tree = git.write(root, "mktree", stdin=f"100644 blob {blob}\t{_FILE}\n".encode())
    last = git.try_read(root, "rev-parse", "-q", "--verify", _seen(remote))
    parent = ("-p", last) if last else ()
    words = ("-m", "What mvc gc gave up")
    return git.write(root, "commit-tree", *parent, *words, tree, env=git.identity(root))


def _text(states: Mapping[str, State]) -> bytes:
    return "".join(f"{commit} {state}\n" for commit, state in sorted(states.items())).encode()


def _seen(remote: str) -> str:
    return f"refs/mvc/{remote}/gc/{_FILE}"
