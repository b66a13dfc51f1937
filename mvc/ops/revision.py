"""Which commit a revision names, in the zone of mvc.toml, and what that commit points to."""

from __future__ import annotations

from datetime import datetime

from mvc.errors import RepoError
from mvc.store import history, pointers
from mvc.store.layout import BATCH_POINTER, STATE_POINTER, Layout
from mvc.types import Pointer, Resolved


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


def batch_at(at: Layout, commit: str) -> Pointer | None:
    """The data that a commit was trained on, None where it was not trained."""
    return _pointer(at, commit, BATCH_POINTER)


def _pointer(at: Layout, commit: str, name: str) -> Pointer | None:
    text = history.file_at(at.root, commit, name)
    return None if text is None else pointers.parse_pointer(text, name)
