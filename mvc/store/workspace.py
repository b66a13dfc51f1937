"""The workspace: what HEAD is, what would be lost, and moving to another commit.

Owns `checkout`, `advance`, `retrace` and `dirty`; a new commit is `promote`'s. Refuses to touch
anything before it is sure that it can finish: every object there, no edit of the user in the way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mvc.errors import MvcError, RepoError, StoreError
from mvc.operations import Move
from mvc.sharing import Wanted
from mvc.store import foreign, git, manifest, objects, oplog, tracked
from mvc.store import journal as journals
from mvc.store.files import no_space
from mvc.store.journal import Journal
from mvc.store.layout import (
    BATCH,
    BATCH_POINTER,
    CURVE,
    DVC_YAML,
    METRICS,
    STATE,
    STATE_POINTER,
    Layout,
)
from mvc.store.promote import (
    NewCommit,
    begun,
    carry_out,
    promote,
    recover,
    settle,
    tagged,
    write_commit,
)
from mvc.store.tracked import head, pointers_of
from mvc.types import Pointer

__all__ = [
    "NewCommit",
    "advance",
    "checkout",
    "dirty",
    "head",
    "pointers_of",
    "promote",
    "recover",
    "retrace",
    "settle",
    "tagged",
    "write_commit",
]

_OURS = (METRICS, CURVE, STATE_POINTER, BATCH_POINTER, DVC_YAML)


def checkout(layout: Layout, commit: str, branch: str | None, *, partial: bool = False) -> int:
    """Put `commit`'s tracked files, state and batch into the workspace.

    Args:
        layout: The repo.
        commit: A full commit hash.
        branch: The branch to stand on, which must be at `commit`; None leaves every branch.
        partial: Only the files whose objects are in the cache are needed, the others left out.

    Returns:
        The number of files linked or removed in the stored folders.

    Raises:
        RepoError: the commit has no state, or an edit of a tracked file is in the way.
        ObjectMissing: an object is not in the cache.
        ObjectCorrupt: one is damaged, or the manifest lies. In all cases nothing was touched.
    """
    root = layout.root
    foreign.check_commit(layout, commit)
    for pointer in _state_and_batch(root, commit):
        if not partial:
            objects.require(layout, pointer, commit)
    _verify(layout, commit)
    ref = f"refs/heads/{branch}" if branch else ""
    if ref and tracked.commit_of(root, ref) != commit:
        raise StoreError(
            f"branch {branch} is not at commit {commit[:10]}", "run the same command again"
        )
    here = _clear_way(root, commit)
    before = tracked.head_name(root)
    journal = Journal(
        op="checkout",
        was=None,
        old=here,
        new=commit,
        ref=ref,
        head=before,
        pid=os.getpid(),
        partial=partial,
        operation=oplog.operation(layout, {}, (before, ref or commit), (here, commit)),
    )
    with no_space("the next command finishes this checkout"):
        journals.write(layout, journal)
        # `git checkout -` finds its way back by these very words in the reflog
        came, goes = before.removeprefix("refs/heads/"), branch or commit
        words = f"checkout: moving from {came} to {goes}"
        try:
            if not ref:
                git.write(root, "update-ref", "--no-deref", "-m", words, "HEAD", commit)
            elif before != ref:
                git.write(root, "symbolic-ref", "-m", words, "HEAD", ref)
        except git.GitFailed:
            journals.clear(layout)
            raise
        return settle(layout, journal)


def advance(
    layout: Layout,
    commit: str,
    branch: str,
    words: str,
    *,
    partial: bool = False,
    keep: str | None = None,
) -> int:
    """Move `branch`, on which HEAD stands, to `commit`, and the workspace with it.

    The caller has made sure that no commit is lost by it. At the branch's own commit it only
    brings the files that are missing.

    Args:
        layout: The repo.
        commit: A full commit hash.
        branch: HEAD's branch; it is created where it has no commit yet.
        words: For the reflog.
        partial: Only the files whose objects are in the cache are needed, the others left out.
        keep: A new branch that is made where `branch` was.

    Returns:
        The number of files linked or removed in the stored folders.

    Raises:
        RepoError: the commit has no state, or an edit of a tracked file is in the way.
        ObjectMissing: an object is not in the cache.
        ObjectCorrupt: one is damaged, or the manifest lies. In all cases nothing was touched.
        StoreError: HEAD or the branch moved meanwhile; nothing was changed.
    """
    root, ref = layout.root, f"refs/heads/{branch}"
    foreign.check_commit(layout, commit)
    for pointer in _state_and_batch(root, commit):
        if not partial:
            objects.require(layout, pointer, commit)
    _verify(layout, commit)
    here = _clear_way(root, commit)
    before, was = tracked.head_name(root), tracked.commit_of(root, ref)
    if before != ref or was != here:
        raise StoreError(f"HEAD left branch {branch} meanwhile", "run the same command again")
    moves: dict[str, Move] = {f"refs/heads/{keep}": (None, was)} if keep else {}
    moves |= {ref: (was, commit)} if was != commit else {}
    journal = Journal(
        op="pull",
        was=was,
        old=here,
        new=commit,
        ref=ref,
        head=before,
        pid=os.getpid(),
        partial=partial,
        moves=moves,
        operation=oplog.operation(layout, moves, (before, ref), (here, commit)),
    )
    return _move(layout, journal, words)


def retrace(
    layout: Layout,
    moves: Mapping[str, Move],
    ref: str,
    commit: str,
    undoes: str,
    *,
    partial: bool = False,
) -> int:
    """Bring refs, HEAD and the workspace to where an operation found them.

    What the refs named until now is kept from `git gc` (`oplog.keep_refs`).

    Args:
        layout: The repo.
        moves: What each ref names now, and what it shall name.
        ref: The branch that HEAD shall name, in full; empty: none.
        commit: The one that HEAD shall be at, in full.
        undoes: The operation that is taken back.
        partial: Only the files whose objects are in the cache are needed, the others left out.

    Returns:
        The number of files linked or removed in the stored folders.

    Raises:
        RepoError: an edit of a tracked file is in the way.
        ObjectMissing: an object is not in the cache.
        ObjectCorrupt: one is damaged, or the manifest lies. In all cases nothing was touched.
        StoreError: a ref moved meanwhile; nothing was changed.
    """
    root = layout.root
    here = tracked.commit_of(root, "HEAD")
    if commit != here:
        foreign.check_commit(layout, commit)
        for pointer in _state_and_batch(root, commit):
            if not partial:
                objects.require(layout, pointer, commit)
        _verify(layout, commit)
        _clear_way(root, commit)
    before = tracked.head_name(root)
    ends = ((before, ref or commit), (here, commit))
    operation = oplog.operation(layout, moves, *ends, undoes=undoes)
    journal = Journal(
        op="undo",
        was=None,
        old=here,
        new=commit,
        ref=ref,
        head=before,
        pid=os.getpid(),
        partial=partial,
        moves=oplog.keep_refs(operation) | operation.refs,
        operation=operation,
    )
    return _move(layout, journal, f"mvc: undo {undoes}")


def _move(layout: Layout, journal: Journal, words: str) -> int:
    """Journal, move the refs, settle; where git refuses the first step nothing is changed."""
    with no_space(f"the next command finishes this {journal.op}"):
        journals.write(layout, journal)
        try:
            carry_out(layout, journal, words)
        except git.GitFailed:
            if not begun(layout, journal)[0]:
                journals.clear(layout)
            raise
        return settle(layout, journal)


def _verify(layout: Layout, commit: str) -> None:
    """Refuse `commit` if an object that it brings here is damaged, or its manifest lies."""

    def held() -> list[Wanted]:
        here = tracked.commit_of(layout.root, "HEAD")
        with contextlib.suppress(MvcError):  # what HEAD cannot vouch for is read
            return manifest.files(layout, [here]) if here and here != commit else []
        return []

    objects.verify(layout, manifest.files(layout, [commit]), held, deep=False)


def _state_and_batch(root: Path, commit: str) -> tuple[Pointer, ...]:
    """The commit's pointers, the state's among them."""
    pointers = pointers_of(root, commit)
    if not any(pointer.path == STATE for pointer in pointers):
        raise RepoError(
            f"commit {commit[:10]} holds no model state (no {STATE_POINTER})",
            "choose another commit with `mvc log`",
        )
    return pointers


def _clear_way(root: Path, commit: str) -> str | None:
    """HEAD's commit, once it is sure that no edit of the user lies between it and `commit`."""
    here = tracked.commit_of(root, "HEAD")
    edited, staged = tracked.foreign(root, tracked.changes(root, here, commit))
    in_the_way = sorted(edited | staged)
    if in_the_way:
        raise RepoError(
            f"{', '.join(in_the_way)}: your change there would be overwritten",
            "commit it with `git commit`, or put it aside with `git stash`, and try again",
        )
    return here


def dirty(layout: Layout) -> tuple[str, ...]:
    """What a checkout would destroy: paths whose content is stored nowhere else.

    Files of `current_model/` and `batch/` that are not in the cache, and edits of the tracked
    files that mvc writes. mvc.toml is the user's: `checkout` refuses by itself where it conflicts.
    """
    found = [f"{name}/{path}" for name in (STATE, BATCH) for path in objects.unsaved(layout, name)]
    # Not `git diff`: it writes the index to note new file times, whatever GIT_OPTIONAL_LOCKS says,
    # and killed there it leaves an index.lock that no journal speaks of (builtin/diff.c,
    # refresh_index_quietly).
    how = ("--porcelain", "-z", "--no-renames", "--untracked-files=no")
    told = git.read(layout.root, "status", *how, "--", *_OURS)
    # A file that is gone, from the work tree or the index, holds nothing to lose; one that a merge
    # left between two sides is there.
    return (*found, *(x[3:] for x in told.split("\0") if x and ("D" not in x[:2] or "U" in x[:2])))
