"""`mvc push`: the objects of every commit that the remote lacks, and after them the refs.

So whoever sees a commit there can have its state. Killed and run again, it goes on from what
arrived. A branch moves forward or not at all.
"""

from __future__ import annotations

import random
import time

from mvc.errors import LockHeld, ObjectMissing, RepoError
from mvc.keeping import State
from mvc.ops.diverged import diverged
from mvc.ops.fetch import NOTHING, add, complete, is_moments, lacking, shared
from mvc.ops.given_up import left_of, state_given_up
from mvc.sharing import PushResult, Transfer, Wanted
from mvc.store import (
    collected,
    history,
    manifest,
    oplog,
    refs,
    tracked,
    transfer,
    wire,
    workspace,
)
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import SILENT, Progress

_ATTEMPTS = 5


def push(
    at: Layout, remote: str | None = None, *, all_states: bool = False, progress: Progress = SILENT
) -> PushResult:
    """Send HEAD's branch and all snapshots, with the objects of their commits.

    A batch may be training meanwhile: what is sent is HEAD as it was at the beginning.

    Args:
        at: The model repo.
        remote: Its name; by default the one that the branch follows, or the only one.
        all_states: Look for the objects of every commit on the remote, not only of those whose
            commits it lacks: after a plain `git push`, for example.
        progress: Hears of the phases and bytes.

    Raises:
        Diverged: both sides trained; nothing was sent.
        RepoError: HEAD is on no branch.
        ObjectMissing: a commit's object is neither here nor on any remote; no ref was sent.
        ObjectCorrupt: an object here is damaged; it was not sent, and no ref was.
        RemoteError: the remote is not there, or refuses.
    """
    _recover(at, progress)
    found = shared(at, remote)
    with wire.expected(at, found.name):
        return _push(at, found.name, all_states, progress)


def _push(at: Layout, remote: str, all_states: bool, progress: Progress) -> PushResult:
    branch, head = tracked.head(at.root)
    if branch is None or head is None:
        raise RepoError(
            "HEAD is on no branch, so there is none to push",
            "`mvc checkout main` first, or `git switch -c NAME` names this line",
        )
    moved, sent = NOTHING, dict[str, None]()
    for attempt in range(1, _ATTEMPTS + 1):
        progress.stage(f"Asking {remote}")
        try:
            seen = refs.fetch_refs(at, remote)
            theirs = tracked.commit_of(at.root, refs.tracking(remote, branch))
            ahead, behind = refs.ahead_behind(at.root, head, theirs) if theirs else (1, 0)
            if ahead and behind:
                assert theirs is not None
                raise diverged(at, remote, branch, head, theirs)
            tags = seen.unsent
            tips = [head, *(f"refs/tags/{tag}" for tag in tags)]
            new = refs.unsent(at.root, remote, tips)
            sent |= dict.fromkeys(new)
            needed = list(
                dict.fromkeys(refs.ancestors(at.root, tips) if all_states else [*new, head])
            )
            # The objects go first: a ref without them would be a promise that nobody keeps.
            try:
                went, record = _send(at, remote, needed, {}, progress, are_new=bool(new))
            except ObjectMissing:  # a clone has not all: what it lacks may be on another remote
                left = _gather(at, needed, progress)
                went, record = _send(at, remote, needed, left, progress)
            moved = add(moved, went)
            todo = {f"refs/heads/{branch}": head} if ahead else {}
            if record is not None:
                todo[collected.REF] = collected.commit(at, remote, record)
            todo |= {f"refs/tags/{tag}": obj for tag, obj in tags.items()}
            if todo:
                progress.stage(f"Sending {len(new)} commits to {remote}")
                refs.push_refs(at, remote, todo)
            break
        except refs.Rejected:
            if attempt == _ATTEMPTS:
                raise
        time.sleep(random.uniform(0.1, 0.3) * attempt)  # somebody was faster: look again
    refs.follow(at, branch, remote)
    if todo:
        oplog.note(at, command=f"mvc push {remote}", remote=remote)
    progress.stop()
    told = {each.commit: each for each in history.commits(at.root, [*dict.fromkeys([head, *sent])])}
    return PushResult(
        remote=remote,
        branch=branch,
        head=told[head],
        commits=tuple(told[each] for each in sent),
        snapshots=tuple(sorted(tags)),
        differing=seen.differing,
        behind=behind,
        objects=moved,
    )


def _send(
    at: Layout,
    remote: str,
    commits: list[str],
    left: dict[str, State],
    progress: Progress,
    *,
    are_new: bool = False,
) -> tuple[Transfer, dict[str, State] | None]:
    """Send what the remote lacks of these commits; what it then lacks is told too, if it changed.

    `left` is what other remotes have of those that `mvc gc` took there.
    """
    objects, record = _objects(at, remote, commits, left)
    pairs = [(each.md5, each.size_bytes) for each in objects]
    return transfer.push(at, remote, pairs, progress, are_new=are_new), record


def _gather(at: Layout, commits: list[str], progress: Progress) -> dict[str, State]:
    """Bring what is not here of these commits; returns what is left of those that gc took.

    Raises:
        ObjectMissing: no remote has it, and none says that gc took it.
        LockHeld: another process writes here.
    """
    known, left = collected.read(at), dict[str, State]()
    with Lock(at, "mvc push"):
        for commit in commits:
            if commit in known or not lacking(at, commit):
                continue
            try:
                complete(at, commit, progress)
            except ObjectMissing:
                if state_given_up(at, commit) is None:
                    raise
            if (state := left_of(at, commit)) != "whole":
                left[commit] = state
    return left


def _objects(
    at: Layout, remote: str, commits: list[str], left: dict[str, State]
) -> tuple[list[Wanted], dict[str, State] | None]:
    """What to send of these commits, and what the remote then lacks that `mvc gc` gave up (None:
    what it lacks now).

    What gc took here is not sent. What it took there, and is whole here, is whole there again.
    """
    lost, gone = collected.read(at) | left, collected.read(at, remote)
    whole = [each for each in commits if each not in lost]
    thin = [each for each in commits if lost.get(each) == "thin"]
    objects = manifest.objects(at, whole)
    objects += [each for each in manifest.objects(at, thin) if not is_moments(each)]
    still = {each: state for each, state in gone.items() if each not in set(whole)}
    # What the remote had before gc took it here, it has still.
    taken = [each for each in commits if each in lost]
    new = set(taken) - set(refs.reached(at.root, remote)) if taken else ()
    then = still | {each: lost[each] for each in new}
    return objects, None if then == gone else then


def _recover(at: Layout, progress: Progress) -> None:
    """Finish what a killed command left; a live one looks after itself."""
    try:
        with Lock(at, "mvc push"):
            if done := workspace.recover(at):
                progress.note(done)
    except LockHeld:
        return
