"""`mvc log`: the loss history, from commit messages alone."""

from __future__ import annotations

from collections.abc import Sequence

from mvc.keeping import State
from mvc.ops import record
from mvc.ops.revision import resolve
from mvc.store import collected, git, history, layout, refs
from mvc.store.layout import Layout
from mvc.store.survey import fetched
from mvc.types import Commit, CurvePoint


def log(at: Layout, rev: str = "HEAD", limit: int | None = None) -> list[Commit]:
    """The commits of a line, newest first.

    Raises:
        RevisionNotFound: `rev` names no commit.
    """
    name = rev if rev == "HEAD" else resolve(at, rev).commit
    return history.log(at.root, name, limit)


def left(at: Layout, commits: Sequence[Commit]) -> dict[str, State]:
    """What `mvc gc` left of those commits that it thinned or took, here or on a remote."""
    found = collected.read(at)
    for remote in refs.recording(at.root):
        there = collected.read(at, remote)
        asked = [c.commit for c in commits if c.commit in there and c.commit not in found]
        here = fetched(at, asked) if asked else set()
        found |= {commit: there[commit] for commit in asked if commit not in here}
    return found


def curves(at: Layout, commits: Sequence[Commit]) -> list[tuple[Commit, tuple[CurvePoint, ...]]]:
    """Each commit's loss.csv, oldest commit first."""
    oldest_first = list(reversed(commits))
    texts = git.cat(at.root, [f"{c.commit}:{layout.CURVE}" for c in oldest_first])
    return [(c, record.read_curve(text)) for c, text in zip(oldest_first, texts, strict=True)]
