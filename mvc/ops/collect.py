"""Carrying out a plan of `mvc gc`, beside others who write, so that a kill at any moment is safe.

Owns the order of things: what goes is recorded before it goes; remotes come first, while this
machine still has what leaves them; the lock is held for a few renames at a time. Before each of
them the refs are looked at again, and where they meanwhile name what was to go, all comes back
and a new plan is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from mvc.errors import MvcError, StoreError
from mvc.keeping import GcResult
from mvc.ops import trashed
from mvc.ops.gc import WAIT_S, Work, expired_trash, look_at_tips
from mvc.ops.trashed import refresh
from mvc.settings import Settings
from mvc.store import collected, history, manifest, oplog, refs, transfer, trash
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.store.survey import Survey, read_folders
from mvc.types import Progress

_HERE, _THERE = 500, 1000  # objects between two looks at the refs
_ATTEMPTS = 5
_COMMAND = "mvc gc --apply"


class _Overtaken(Exception):
    """Somebody names now what was to go."""


def collect(
    at: Layout,
    look: Callable[[], Work],
    settings: Settings,
    now: datetime,
    *,
    empty_trash: bool,
    progress: Progress,
) -> GcResult:
    """Make a plan with `look` and carry it out; a new one where the refs overtake it.

    Raises:
        StoreError: the refs moved faster than plans could be made.
        RemoteError: a remote refuses; what went from it before is recorded.
    """
    left: dict[str, set[str]] = {}
    for _ in range(_ATTEMPTS):
        work = look()
        try:
            for remote in work.leaving:
                progress.stage(f"Deleting on {remote}")
                _there(at, work, remote, left.setdefault(remote, set()))
            if work.going:
                progress.stage("Moving into the trash")
            found = _here(at, work, now, left)
            break
        except _Overtaken:
            continue
    else:
        raise StoreError("the refs moved all the while", "run `mvc gc --apply` again later")
    for remote, gone in left.items():
        if gone:
            _mend(at, remote, gone, work, found, look)
    with Lock(at, _COMMAND, WAIT_S):
        old = trash.listing(at) if empty_trash else expired_trash(at, settings, now)
        if old:  # a pin may have come meanwhile
            trashed.bring_back(at, settings, now)
        trash.empty(at, [each.id for each in old])
        still = any(each.id == found for each in trash.listing(at))
    return GcResult(work.plan, applied=True, trash=found if still else None)


def _here(at: Layout, work: Work, now: datetime, there: dict[str, set[str]]) -> str | None:
    """Move what goes into a new trash, after what went `there`; its id, None where nothing goes."""
    tips, made = work.tips, None
    for chunk in _chunks(work.going, _HERE):
        with Lock(at, _COMMAND, WAIT_S):
            try:
                tips = _unchanged(at, work.survey, tips, frozenset(work.going))
            except _Overtaken:
                if made is not None:
                    trash.put_back(at, made)
                    refresh(at)
                raise
            if made is None:
                made = trash.begin(at, now)
                gone = " ".join(remote for remote, md5s in there.items() if md5s)
                oplog.note(at, trash=made, **({"deleted": gone} if gone else {}))
                collected.write(at, work.record)
            trash.take(at, made, chunk)
    if made is None and work.record != collected.read(at) and work.plan.policy:
        with Lock(at, _COMMAND, WAIT_S):
            collected.write(at, work.record)
    return made


def _there(at: Layout, work: Work, remote: str, gone: set[str]) -> None:
    """Delete on a remote; what went is added to `gone`."""
    leaving, tips = work.leaving[remote], work.tips
    if not leaving:
        return
    with Lock(at, _COMMAND, WAIT_S):
        record = collected.commit(at, remote, work.remote_records[remote])
        refs.push_refs(at, remote, {collected.REF: record})
    for chunk in _chunks(leaving, _THERE):
        with Lock(at, _COMMAND, WAIT_S):
            refs.fetch_refs(at, remote, tags=True)
            tips = _unchanged(at, work.survey, tips, frozenset(leaving), remote)
            if not gone:  # a gc that is killed, or deletes nothing here, is one all the same
                oplog.note(at, deleted=remote)
        gone.update(chunk)
        transfer.remove(at, remote, chunk)


def _mend(
    at: Layout, remote: str, gone: set[str], done: Work, made: str | None, look: Callable[[], Work]
) -> None:
    """Send back what somebody's push came to need while it was being deleted.

    A push that found an object there did not send it, and its refs came only afterwards. What
    went into the trash meanwhile comes back first.
    """
    with Lock(at, _COMMAND, WAIT_S):
        refs.fetch_refs(at, remote, tags=True)
        try:
            _unchanged(at, done.survey, done.tips, frozenset(gone), remote)
            return
        except _Overtaken:
            if made in [each.id for each in trash.listing(at)]:
                trash.put_back(at, made)
                refresh(at)
    work = look()
    lost = gone & (work.needed - set(work.leaving[remote])) & work.survey.here.keys()
    transfer.push(at, remote, [(md5, None) for md5 in lost])
    record = {
        commit: state
        for commit, state in collected.read(at, remote).items()
        if not lost & {m for f in work.survey.folders.get(commit, ()) for m in f.objects("whole")}
    }
    refs.push_refs(at, remote, {collected.REF: collected.commit(at, remote, record)})


def _unchanged(
    at: Layout,
    survey: Survey,
    before: dict[str, str],
    going: frozenset[str],
    remote: str | None = None,
) -> dict[str, str]:
    """The refs as they are now; what is new in them comes with its lists of files from `remote`.

    Raises:
        _Overtaken: one of them leads to what is going.
    """
    now = look_at_tips(at)
    moved = {commit for ref, commit in now.items() if before.get(ref) != commit}
    if not moved:
        return now
    try:
        new = {
            each.commit
            for each in history.reachable(
                at.root, sorted(moved), sorted(survey.commits.keys() & set(before.values()))
            )
        }
        known = [survey.folders[commit] for commit in moved & survey.folders.keys()]
        unknown = sorted((new | moved) - survey.commits.keys())
        if remote is not None:
            transfer.fetch(at, remote, manifest.listings(at, unknown))
        folders = [*itertools.chain(*known), *read_folders(at, unknown)]
    except MvcError as error:
        raise _Overtaken from error
    if any(md5 in going for folder in folders for md5 in folder.objects("whole")):
        raise _Overtaken
    return now


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
