"""`mvc ops`: the operation log, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from mvc.operations import Logged, Operation
from mvc.store import history, oplog
from mvc.store.layout import Layout
from mvc.types import Commit


def ops(at: Layout, limit: int | None = None) -> list[Logged]:
    """What changed this repo, here on this machine, newest first; at most `limit` operations."""
    return logged(at, list(islice(oplog.entries(at), limit)))


def logged(at: Layout, operations: Sequence[Operation]) -> list[Logged]:
    """Operations with the commits that they name, as far as those are still there."""
    named: dict[str, None] = {}
    for each in operations:
        shas = (*each.commit, *(sha for pair in each.refs.values() for sha in pair))
        named |= dict.fromkeys(sha for sha in shas if sha)
    peeled = oplog.commits_of(at.root, named)
    there = list(dict.fromkeys(peeled.values()))
    found = {commit.commit: commit for commit in history.commits(at.root, there)}
    commits = {sha: found[peeled[sha]] for sha in named if sha in peeled}
    return [Logged(each, _only(each, commits)) for each in operations]


def _only(each: Operation, commits: dict[str, Commit]) -> dict[str, Commit]:
    shas = {*each.commit, *(sha for pair in each.refs.values() for sha in pair)}
    return {sha: commits[sha] for sha in shas if sha and sha in commits}
