"""`mvc log`: the loss history, from commit messages alone.

What is seldom needed is imported where it is: half of the time of a first page was imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mvc.store import git, history, layout
from mvc.store.layout import Layout
from mvc.types import Commit, CurvePoint

if TYPE_CHECKING:
    from mvc.keeping import State

_RECORDS = ("for-each-ref", "--count=1", "--format=%(refname)", "refs/mvc/*/gc/collected")


def log(at: Layout, rev: str = "HEAD", limit: int | None = None) -> list[Commit]:
    """The commits of a line, newest first.

    Raises:
        RevisionNotFound: `rev` names no commit.
    """
    if rev != "HEAD":
        from mvc.ops.revision import resolve

        rev = resolve(at, rev).commit
    return history.log(at.root, rev, limit)


def left(at: Layout, commits: Sequence[Commit]) -> dict[str, State]:
    """What `mvc gc` left of those commits that it thinned or took, here or on a remote."""
    if not at.collected.exists() and not git.try_read(at.root, *_RECORDS):
        return {}
    from mvc.store import collected, refs
    from mvc.store.survey import fetched

    found = collected.read(at)
    for remote in refs.recording(at.root):
        there = collected.read(at, remote)
        asked = [c.commit for c in commits if c.commit in there and c.commit not in found]
        here = fetched(at, asked) if asked else set()
        found |= {commit: there[commit] for commit in asked if commit not in here}
    return found


def curves(at: Layout, commits: Sequence[Commit]) -> list[tuple[Commit, tuple[CurvePoint, ...]]]:
    """Each commit's loss.csv, oldest commit first."""
    from mvc.ops import record

    oldest_first = list(reversed(commits))
    texts = git.cat(at.root, [f"{c.commit}:{layout.CURVE}" for c in oldest_first])
    return [(c, record.read_curve(text)) for c, text in zip(oldest_first, texts, strict=True)]
