"""`mvc show`: one commit whole."""

from __future__ import annotations

import tomllib

from mvc.errors import ObjectMissing
from mvc.ops import record
from mvc.ops.revision import batch_at, resolve, state_at
from mvc.store import history, layout, pointers
from mvc.store.layout import Layout
from mvc.types import CommitDetail


def show(at: Layout, rev: str = "HEAD") -> CommitDetail:
    """Data, settings, curve, environment and files of one commit.

    Raises:
        RevisionNotFound: `rev` names no commit.
        RepoError: the commit holds no state.
    """
    found = history.commit(at.root, resolve(at, rev).commit)
    state = state_at(at, found.commit)
    try:
        md5s = {path: md5 for path, md5, _ in pointers.entries(at, state)}
    except ObjectMissing:
        md5s = {}
    settings = history.file_at(at.root, found.commit, layout.CONFIG) or b""
    return CommitDetail(
        commit=found,
        curve=record.read_curve(history.file_at(at.root, found.commit, layout.CURVE)),
        settings=tomllib.loads(settings.decode()),
        environment=state.meta.get("environment", {}),
        state=state,
        batch=batch_at(at, found.commit),
        files=record.manifest(state, md5s),
    )
