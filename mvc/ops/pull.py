"""`mvc pull`: the branch moves forward to the remote's, its state fetched and checked before."""

from __future__ import annotations

from contextlib import ExitStack

from mvc.errors import RemoteError, RepoError
from mvc.ops.checkout import refuse_dirty
from mvc.ops.diverged import diverged
from mvc.ops.fetch import bring, shared, telling_of_a_move
from mvc.ops.verify import require_trusted
from mvc.sharing import PullResult
from mvc.store import (
    foreign,
    git,
    history,
    known,
    objects,
    pointers,
    refs,
    tracked,
    wire,
    workspace,
)
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Progress


def pull(
    at: Layout,
    remote: str | None = None,
    *,
    adapter_only: bool = False,
    all_states: bool = False,
    keep_as: str | None = None,
    progress: Progress = SILENT,
) -> PullResult:
    """Fetch, and move HEAD's branch forward to where it is on the remote.

    Args:
        at: The model repo.
        remote: Its name; by default the one that the branch follows, or the only one.
        adapter_only: Fetch only what inference needs; a later pull completes it.
        all_states: Fetch the objects of every commit.
        keep_as: Where both sides trained: a branch that keeps what is here, while HEAD's branch
            takes the remote's.
        progress: Hears of the phases and bytes.

    Raises:
        Diverged: both sides trained and `keep_as` is not given; nothing was changed.
        RepoError: HEAD is on no branch, the workspace is dirty, or `keep_as` is taken, or is the
            branch that moves.
        RemoteError: the remote is not there, refuses, or has no such branch.
        SignatureError: this user asks for signatures and the remote's commit has none to trust.
        ObjectCorrupt: what the remote sent does not hold; the branch has not moved.
    """
    known.expect()
    with Lock(at, "mvc pull", moves=True), ExitStack() as held:
        if done := workspace.recover(at):
            progress.note(done)
        found = shared(at, remote)
        held.enter_context(wire.expected(at, found.name))
        branch, head = tracked.head(at.root)
        if branch is None or head is None:
            raise RepoError(
                "HEAD is on no branch, so there is none to bring forward",
                "`mvc checkout main` first; `mvc fetch` works anywhere",
            )
        progress.stage(f"Asking {found.name}")
        seen = refs.fetch_refs(at, found.name)
        theirs = _theirs(at, found.name, branch)
        ahead, behind = refs.ahead_behind(at.root, head, theirs)
        if ahead and behind and keep_as is None:
            raise diverged(at, found.name, branch, head, theirs)
        keep = (
            _free(at, keep_as, branch, head) if ahead and behind and keep_as is not None else None
        )
        target = theirs if behind else head
        held.enter_context(objects.opened(at))
        if behind:
            refuse_dirty(at)
            foreign.check_commit(at, target)
            require_trusted(at, target)
        wanted = [target, *(refs.reached(at.root, found.name) if all_states else ())]
        with telling_of_a_move(at, found.name, target):
            moved = bring(at, found.name, wanted, progress, adapter_only=adapter_only)
        changed = 0
        if behind or not workspace.dirty(at):
            progress.stage("Bringing the workspace forward")
            words = f"pull {found.name}: " + ("take its line" if ahead else "fast-forward")
            changed = workspace.advance(at, target, branch, words, partial=adapter_only, keep=keep)
        refs.follow(at, branch, found.name)
        progress.stop()
        new = history.log(at.root, f"{head}..{target}", first_parent=False) if behind else []
    return PullResult(
        remote=found.name,
        branch=branch,
        head=new[0] if new and new[0].commit == target else history.commit(at.root, target),
        commits=tuple(new),
        kept_as=keep_as if ahead and behind else None,
        partial=any(pointers.missing(at, p) for p in tracked.pointers_of(at.root, target)),
        snapshots=seen.new_snapshots,
        differing=seen.differing,
        num_files_changed=changed,
        objects=moved,
    )


def _theirs(at: Layout, remote: str, branch: str) -> str:
    found = tracked.commit_of(at.root, refs.tracking(remote, branch))
    if found is None:
        there = ", ".join(refs.branches(at.root, remote)) or "none"
        raise RemoteError(
            f"{remote} has no branch {branch} (there: {there})",
            f"`mvc push` puts it there; `mvc checkout {remote}/BRANCH` looks at another",
        )
    return found


def _free(at: Layout, name: str, branch: str, commit: str) -> str | None:
    """The branch `name`, to be made at `commit`; None where it is there already, at the same.

    Never `branch`: that is the one which leaves `commit`, so nothing would keep it.
    """
    ref = f"refs/heads/{name}"
    odd = git.try_read(at.root, "check-ref-format", ref) is None
    if odd or name.startswith("-") or name == "HEAD":
        raise RepoError(f"{name!r} cannot be a branch's name", "take letters and digits")
    if name == branch:
        raise RepoError(
            f"{branch} is the branch that takes the remote's line, so it cannot keep yours",
            "take another name: `mvc pull --keep-as NAME`",
        )
    there = tracked.commit_of(at.root, ref)
    if there not in (None, commit):
        raise RepoError(
            f"there is a branch {name} already", "take another name: `mvc pull --keep-as NAME`"
        )
    return name if there is None else None
