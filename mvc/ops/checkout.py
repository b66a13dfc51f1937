"""`mvc checkout`: puts a revision's state into current_model/."""

from __future__ import annotations

import contextlib
import shlex
from datetime import datetime

from mvc.errors import ObjectMissing, RepoError
from mvc.ops import given_up
from mvc.ops.revision import resolve
from mvc.ops.verify import require_trusted
from mvc.store import history, manifest, objects, workspace
from mvc.store.layout import STATE, Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, CheckoutResult, Progress


def checkout(
    at: Layout, rev: str, *, now: datetime | None = None, progress: Progress = SILENT
) -> CheckoutResult:
    """Move HEAD and the workspace to `rev`. Only a branch's name stays on a branch, as in git.

    What the cache lacks of its state is fetched from a remote. Of a state that `mvc gc` thinned
    the adapter comes, and the rest is left out.

    Raises:
        RevisionNotFound: `rev` names no commit.
        RepoError: something in the workspace is stored nowhere else.
        ObjectMissing: the state is neither in the cache nor on a remote; nothing was touched.
        ObjectCorrupt: an object is damaged, here or as a remote sent it; nothing was touched.
        SignatureError: this user asks for signatures, and the commit has none to trust.
    """
    with Lock(at, f"mvc checkout {shlex.quote(rev)}", moves=True), contextlib.ExitStack() as held:
        if done := workspace.recover(at):
            progress.note(done)
        found = resolve(at, rev, now)
        held.enter_context(objects.opened(at))
        refuse_dirty(at)
        require_trusted(at, found.commit)
        whole = given_up.bring(at, found.commit, progress, thin=True)
        progress.stop()
        num_files = workspace.checkout(at, found.commit, found.branch, partial=not whole)
        if not whole:
            told = given_up.refusal(at, found.commit, "thin")
            progress.note(f"{told.message}; to train on, {told.hint}")
    return CheckoutResult(
        commit=history.commit(at.root, found.commit),
        resolved=found,
        branch=found.branch,
        num_files_changed=num_files,
    )


def refuse_dirty(at: Layout) -> None:
    """Raise RepoError when moving would destroy what is stored nowhere else.

    Raises:
        ObjectCorrupt: the present state's own objects are damaged.
    """
    if dirty := workspace.dirty(at):
        _, head = workspace.head(at.root)
        if head is not None:  # a file may be what it was linked from, and that be damaged
            with contextlib.suppress(ObjectMissing):
                objects.verify(at, manifest.files(at, [head]))
        more = f" and {len(dirty) - 3} more" if len(dirty) > 3 else ""
        raise RepoError(
            f"{', '.join(dirty[:3])}{more}: changed, and stored nowhere else",
            f"move what you want to keep out of {STATE}/ (a deleted file comes back), or "
            "`git checkout -- FILE` for a tracked one, then try again",
        )
