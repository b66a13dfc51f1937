"""`mvc rollback`: a new commit on this branch with an earlier revision's state."""

from __future__ import annotations

import contextlib
import shlex
from datetime import datetime

from msgspec.structs import replace

from mvc.errors import RepoError
from mvc.ops import given_up, record
from mvc.ops.checkout import refuse_dirty
from mvc.ops.revision import batch_at, made_by_mvc, resolve, state_at
from mvc.ops.verify import require_trusted
from mvc.store import config, history, layout, manifest, messages, objects, pointers, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, CheckoutResult, Commit, Progress


def rollback(
    at: Layout,
    rev: str,
    *,
    message: str | None = None,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> CheckoutResult:
    """Bring `rev`'s state back as a new commit: the history stays, a push stays fast-forward.

    The settings stay those of mvc.toml; the lifetime step is the one of `rev`, so the schedule
    goes on from there. What the cache lacks of its state is fetched from a remote.

    Raises:
        RevisionNotFound: `rev` names no commit.
        RepoError: HEAD is on no branch, has that state already, or the workspace is dirty.
        ConfigError: mvc.toml asks for another LoRA or base than `rev` was trained with.
        ObjectMissing: the state is neither in the cache nor on a remote; nothing was touched.
        ObjectCorrupt: an object is damaged, here or as a remote sent it; nothing was touched.
        SignatureError: this user asks for signatures, and the commit has none to trust.
    """
    with Lock(at, f"mvc rollback {shlex.quote(rev)}", moves=True), contextlib.ExitStack() as held:
        if done := workspace.recover(at):
            progress.note(done)
        found = resolve(at, rev, now)
        held.enter_context(objects.opened(at))
        refuse_dirty(at)
        branch, head = workspace.head(at.root)
        if branch is None or head is None:
            raise RepoError(
                "HEAD is on no branch, so there is none to roll back",
                f"`mvc checkout main` first, or `git switch -c NAME {found.commit[:10]}`",
            )
        require_trusted(at, found.commit)
        given_up.bring(at, found.commit, progress)
        progress.stop()
        target, made = history.commit(at.root, found.commit), made_by_mvc(at, found.commit)
        state, batch = state_at(at, target.commit), batch_at(at, target.commit)
        objects.verify(at, manifest.files(at, [target.commit]))
        now_stored = dict(e[:2] for e in pointers.entries(at, state_at(at, head)))
        to_come = dict(e[:2] for e in pointers.entries(at, state))
        if now_stored == to_come:
            raise RepoError(
                f"{branch} has the state of {rev} already",
                "`mvc log` shows where it stands",
            )
        settings = config.load(at)
        line = history.file_at(at.root, made.commit, layout.CONFIG) or b""
        config.check_line(settings, config.parse(line.decode(), f"mvc.toml of {made.short}"))
        new = Commit(
            commit="",
            parents=(head,),
            kind="rollback",
            batch=None,
            time=now or datetime.now(config.zone(settings)),
            message=messages.rollback_subject(target),
            lifetime_step=made.lifetime_step,
            rollback_to=target.commit,
        )
        files: dict[str, bytes | None] = {
            layout.METRICS: record.metrics(new),
            layout.CURVE: record.curve_csv(()),
        }
        if batch is None:
            files[layout.BATCH_POINTER] = None
        commit = workspace.promote(
            at,
            workspace.NewCommit(
                message=messages.format_message(new, message),
                files=files,
                pointers=(state,) if batch is None else (state, batch),
                parent=head,
                branch=branch,
                when=new.time,
            ),
        )
    return CheckoutResult(
        commit=replace(history.commit(at.root, commit), rollback_to=target.commit),
        resolved=found,
        branch=branch,
        num_files_changed=len({path for path, _ in now_stored.items() ^ to_come.items()}),
    )
