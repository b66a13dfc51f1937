"""Which commit a revision names, in the zone of mvc.toml, and what that commit points to."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from mvc.errors import RepoError
from mvc.store import git, history, pointers
from mvc.store.layout import BATCH_POINTER, STATE_POINTER, Layout
from mvc.types import Commit, Pointer, Resolved


def resolve(at: Layout, spec: str, now: datetime | None = None) -> Resolved:
    """The commit that `spec` names: what git resolves, a date, a time, `@42`.

    Raises:
        RevisionNotFound: it names none; the hint names the nearest.
    """
    from mvc.store import config, revisions

    return revisions.resolve(at.root, spec, config.zone(config.load(at)), now)


def state_at(at: Layout, commit: str) -> Pointer:
    """The state that a commit points to.

    Raises:
        RepoError: the commit holds none.
    """
    found = _pointer(at, commit, STATE_POINTER)
    if found is None:
        raise RepoError(
            f"commit {commit[:10]} holds no state ({STATE_POINTER})",
            "`mvc log` lists the commits that do",
        )
    return found


def made_by_mvc(at: Layout, commit: str) -> Commit:
    """The commit itself; for one made by hand, ours on its line whose state it has.

    A hand's commit (an edit of mvc.toml, a `git revert`) has no trailers; the counters that
    belong to its state stand in the commit that made the state. The nearest of ours counts where
    the state is new too.

    Raises:
        RepoError: the commit holds no state, or mvc made no commit of its line.
    """
    found = history.commit(at.root, commit)
    if found.kind != "other":
        return found
    md5 = state_at(at, commit).md5.encode()
    ours = [each for each in history.log(at.root, commit) if each.kind != "other"]
    if not ours:
        raise RepoError(
            "no commit of this line was made by mvc", "`mvc log --json` shows what is there"
        )
    texts = git.cat(at.root, [f"{each.commit}:{STATE_POINTER}" for each in ours])
    same = (each for each, text in zip(ours, texts, strict=True) if text and md5 in text)
    return next(same, ours[0])


def batch_at(at: Layout, commit: str) -> Pointer | None:
    """The data that a commit was trained on, None where it was not trained."""
    return _pointer(at, commit, BATCH_POINTER)


# A batch asks five times for its parent's, and what a hash names never changes.
_file_of_hash = lru_cache(maxsize=8)(history.file_at)


def _pointer(at: Layout, commit: str, name: str) -> Pointer | None:
    read = _file_of_hash if git.is_hash(commit) else history.file_at
    text = read(at.root, commit, name)
    return None if text is None else pointers.parse_pointer(text, name)
