"""`mvc status`: where HEAD is, whether the state matches it, what is in progress."""

from __future__ import annotations

from typing import Literal

from mvc.errors import RepoError
from mvc.ops import run
from mvc.ops.revision import state_at
from mvc.store import git, history, layout, pointers, refs, tracked
from mvc.store import lock as locks
from mvc.store.layout import Layout
from mvc.types import Status


def status(at: Layout) -> Status:
    """Where the repo stands; loads DVC only when links alone cannot tell.

    It only reads, but for finishing a commit or checkout that a killed process left.

    Raises:
        RepoError: the repo has no commit.
    """
    if at.journal.exists() and not locks.holder(at):
        from mvc.store import workspace

        with locks.Lock(at, "mvc status"):
            workspace.recover(at)
    branch, commit = tracked.head(at.root)
    if commit is None:
        raise RepoError(
            "this repo has no commit yet; its `mvc init` was interrupted",
            "delete the folder and run `mvc init` again",
        )
    state, changed = _state(at, commit)
    days = [s.day for s in history.snapshots(at.root)]
    text = history.file_at(at.root, commit, layout.CONFIG)
    return Status(
        root=at.root,
        branch=branch,
        head=history.commit(at.root, commit),
        state=state,
        changed_files=changed,
        run=run.info(at),
        unpushed=_unpushed(at, branch),
        locked_by=locks.holder(at),
        last_snapshot=days[0] if days else None,
        config_changed=at.config.read_bytes() != text,
    )


def _state(
    at: Layout, commit: str
) -> tuple[Literal["clean", "modified", "missing", "partial", "thin"], tuple[str, ...]]:
    pointer = state_at(at, commit)
    if not at.state.is_dir():
        return "missing", ()
    if pointers.looks_clean(at, pointer):
        return "clean", ()
    from mvc.store import objects

    changed = objects.changed(at, pointer)
    never_came = set(changed) & set(pointers.missing(at, pointer))
    if changed and never_came == set(changed) and not any((at.state / p).exists() for p in changed):
        from mvc.ops import given_up

        return ("thin" if given_up.state_given_up(at, commit) else "partial"), changed
    return ("modified", changed) if changed else ("clean", ())


def _unpushed(at: Layout, branch: str | None) -> int | None:
    """The commits that the remote lacks, as it was last seen; None without a remote.

    The remote is the one that the branch follows, else the only one: git's own configuration is
    enough to tell, and DVC is not loaded.
    """
    names = git.lines(git.try_read(at.root, "remote") or "")
    remote = git.try_read(at.root, "config", "--get", f"branch.{branch}.remote") if branch else None
    if remote not in names:
        remote = names[0] if len(names) == 1 else None
    return None if remote is None else len(refs.unsent(at.root, remote, ["HEAD"]))
