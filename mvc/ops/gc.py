"""`mvc gc`: retention. What the rules do not keep goes into the trash, and, asked, off remotes.

Owns the plan: which objects no kept state names. An object is freed only where nothing that is
kept names it, so a commit may keep more than the rules say, never less. The history itself is
never rewritten. Carrying a plan out is `collect`'s, the reasons are `keep`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from mvc.errors import MissingExtra, ObjectMissing, RemoteError, RepoError
from mvc.keeping import (
    LEAST,
    GcPlan,
    GcResult,
    GcRow,
    KeptCommit,
    RemoteShare,
    Restored,
    State,
    Trash,
)
from mvc.ops import keep, trashed
from mvc.ops.fetch import shared
from mvc.settings import Settings
from mvc.sharing import Wanted
from mvc.store import collected, config, oplog, pointers, refs, tips, transfer, trash, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.store.remotes import listing
from mvc.store.survey import Survey, survey
from mvc.types import SILENT, Progress

WAIT_S = 60.0
"""How long a short hold of the lock waits for another writer (a commit, a push)."""


class Work(msgspec.Struct, frozen=True):
    """A plan with the objects that it is about.

    `going` leave the cache, `leaving` a remote by its name: files first, folders' lists last, so
    that what is left after a kill can still be named. `record` and `remote_records` are what
    `collected` shall say. `tips` are the refs that the plan rests on.
    """

    plan: GcPlan
    survey: Survey
    going: tuple[str, ...]
    leaving: dict[str, tuple[str, ...]]
    record: dict[str, State]
    remote_records: dict[str, dict[str, State]]
    tips: dict[str, str]
    needed: frozenset[str]


def gc(
    at: Layout,
    *,
    apply: bool = False,
    remotes: Sequence[str] = (),
    settings: Settings | None = None,
    unpushed: bool = False,
    empty_trash: bool = False,
    own_cache: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> GcResult:
    """Plan what goes, and with `apply` let it go.

    Args:
        at: The model repo.
        apply: Carry the plan out; without it nothing is changed.
        remotes: Remotes from which the same commits' objects go; their refs are fetched first.
        settings: The rules; by default mvc.toml's.
        unpushed: What no remote has is under the rules as well.
        empty_trash: With `apply`: delete every trash for good, not only the expired ones.
        own_cache: No other repo uses the cache, although it lies outside this one.
        now: The present.
        progress: Hears of the phases.

    Raises:
        ConfigError: a rule is no rule.
        RemoteError: a remote is not there, or refuses.
        LockHeld: another process holds the repo for longer than a minute.
        RepoError: the cache lies outside the repo, so that others may use it.
        StoreError: git cannot read the history.
    """
    from mvc.ops import collect

    settings = settings or config.load(at)
    now = now or datetime.now(config.zone(settings))
    _tell_detached(at, progress)
    back = (0, 0)
    if apply:
        if not own_cache and not pointers.cache_folder(at).is_relative_to(at.root):
            raise RepoError(
                "the cache lies outside this repo: another repo that uses it would lose its states",
                "add --own-cache if none does; `dvc cache dir` tells where it is",
            )
        with Lock(at, "mvc gc --apply", WAIT_S):
            if told := workspace.recover(at):
                progress.note(told)
            back = trashed.bring_back(at, settings, now)
    asked = [shared(at, name).name for name in dict.fromkeys(remotes)]

    def look() -> Work:
        return plan(at, asked, settings, now, unpushed=unpushed, progress=progress)

    try:
        if not apply:
            return GcResult(look().plan, applied=False)
        done = collect.collect(at, look, settings, now, empty_trash=empty_trash, progress=progress)
        return replace(done, plan=replace(done.plan, num_back=back[0], num_back_bytes=back[1]))
    finally:
        progress.stop()


def plan(
    at: Layout,
    remotes: Sequence[str],
    settings: Settings,
    now: datetime,
    *,
    unpushed: bool,
    progress: Progress,
    ask: bool = True,
) -> Work:
    """What would go, from here and from `remotes`.

    With `ask` the other remotes are asked whether they have what their refs promise: a plain
    `git push` brings commits without their objects.
    """
    for name in remotes:
        progress.stage(f"Asking {name}")
        with Lock(at, "mvc gc", WAIT_S):
            refs.fetch_refs(at, name, tags=True)
    progress.stage("Reading the history")
    before = look_at_tips(at)
    also = keep.remembered(at, settings, now)
    found = survey(at, also)
    theirs = {
        name: [c for c in refs.reached(at.root, name) if c in found.folders] for name in remotes
    }
    num_lists = sum(_lists(at, name, commits, found) for name, commits in theirs.items())
    found = survey(at, also) if num_lists else found
    held = keep.keeping(at, found, settings, now, unpushed=unpushed, asked=remotes)
    policy = keep.any_rule(settings)
    named = {md5 for fs in found.folders.values() for f in fs for md5 in f.objects("whole")}
    needed = _needed(found, held, policy)
    if ask and policy and not unpushed:
        for commit in _broken_promises(at, found, needed, remotes, progress):
            held.keep(commit, "whole", "not pushed")
        needed = _needed(found, held, policy)
    strays = found.here.keys() - needed - named
    doubtful = found.doubtful or not pointers.cache_folder(at).is_relative_to(at.root)
    free = (found.here.keys() - needed) - (strays if doubtful else set()) if policy else set()
    going = _lists_last(free)
    rows, record = _rows(at, found, held, free)
    shares, leaving, records = [], {}, {}
    for name, commits in theirs.items():
        share, leaving[name], records[name] = _share(at, name, commits, found, held, needed, policy)
        shares.append(share)
    back = trashed.needed(at, settings, now, found)
    expired = expired_trash(at, settings, now)
    told = GcPlan(
        policy=policy,
        rows=rows,
        kept=tuple(
            KeptCommit(
                commit, held.state[sha], tuple(held.reasons[sha]), found.state(sha, found.here)
            )
            for sha, commit in found.commits.items()
            if sha in held.state
        ),
        num_objects=len(going),
        num_bytes=sum(found.here[md5] for md5 in going),
        num_stray_bytes=sum(found.here[md5] for md5 in strays),
        remotes=tuple(shares),
        expired=tuple(each.id for each in expired),
        num_expired_bytes=sum(each.num_bytes for each in expired),
        findings=tuple(found.findings),
        num_back=len(back),
    )
    return Work(told, found, going, leaving, record, records, before, frozenset(needed))


def _needed(found: Survey, held: keep.Keeping, policy: bool) -> set[str]:
    """The objects that stay here."""
    needed = set(found.others)
    for commit, folders in found.folders.items():
        state = held.state.get(commit, "absent") if policy else "whole"
        needed.update(md5 for folder in folders for md5 in folder.objects(state))
    return needed


def _broken_promises(
    at: Layout, found: Survey, needed: set[str], asked: Sequence[str], progress: Progress
) -> list[str]:
    """The commits that would go, and of which no remote has what one promises to have.

    Those that are `asked` to let go promise nothing. Of one that does not answer nothing is known.
    """
    names = [each.name for each in listing(at) if each.data_url and each.git_url]
    others = [name for name in names if name not in asked]
    if not others:
        return []
    commits = set(found.folders)
    if asked:
        commits &= {sha for name in others for sha in keep.promised(at, name)}
    objects = {
        sha: {m for folder in found.folders[sha] for m in folder.objects("whole")} - needed
        for sha in commits
    }
    left = {md5 for md5s in objects.values() for md5 in md5s}
    if not asked:  # else it may be on one of those alone
        left &= found.here.keys()
    for name in others if left else ():
        progress.stage(f"Asking {name}")
        try:
            left -= transfer.sizes(at, name, left).keys()
        except (RemoteError, MissingExtra) as error:
            progress.note(f"{error.message}: what only {name} may have is kept")
    return [sha for sha, md5s in objects.items() if md5s & left]


def expired_trash(at: Layout, settings: Settings, now: datetime) -> list[Trash]:
    """The trashes whose time is over; none without a policy, for then nothing is ever deleted."""
    age = timedelta(days=settings.keep.trash)
    found = trash.listing(at) if keep.any_rule(settings) else []
    return [each for each in found if now - each.time >= age]


def _tell_detached(at: Layout, progress: Progress) -> None:
    branch, _ = workspace.head(at.root)
    if branch is None:
        progress.note("HEAD is on no branch: the rules are those of the mvc.toml checked out here")


def look_at_tips(at: Layout) -> dict[str, str]:
    """What a plan rests on: every ref, HEAD, and what a batch in progress goes on from."""
    return tips.look(at).commits | {f"in progress on {each}": each for each in keep.in_progress(at)}


def _lists_last(md5s: set[str]) -> tuple[str, ...]:
    return tuple(sorted(md5s, key=lambda md5: (md5.endswith(".dir"), md5)))


def _rows(
    at: Layout, found: Survey, held: keep.Keeping, free: set[str]
) -> tuple[tuple[GcRow, ...], dict[str, State]]:
    """The commits that change, newest first, and what `collected` shall say."""
    known = collected.read(at)
    left = found.here.keys() - free
    rows, record, counted = [], dict[str, State](), set[str]()
    for sha, folders in found.folders.items():
        objects = {md5 for folder in folders for md5 in folder.objects("whole")}
        before, after = found.state(sha, found.here), found.state(sha, left)
        # Only what gc takes is given up: an object that is missing besides is damage, and stays so.
        if not objects & free:
            if sha in known and before != "whole":
                record[sha] = max(known[sha], before, key=LEAST.index)
            continue
        given_up = found.state(sha, objects - free)
        if sha in known and before != "whole":
            given_up = min(given_up, known[sha], key=LEAST.index)
        if given_up != "whole":
            record[sha] = given_up
        if before != after:
            mine = (objects & free) - counted
            counted |= mine
            size = sum(found.here[md5] for md5 in mine)
            reasons = tuple(held.reasons.get(sha, ()))
            rows.append(GcRow(found.commits[sha], before, after, size, reasons))
    return tuple(rows), record


def _lists(at: Layout, remote: str, commits: Sequence[str], found: Survey) -> int:
    """Bring the lists of files that only the remote has; they say what lies there."""
    gone = {c for c, state in collected.read(at, remote).items() if state == "absent"}
    wanted = [
        Wanted(folder.listing, None, None, f"{folder.name}.dvc", commit)
        for commit in commits
        if commit not in gone
        for folder in found.folders[commit]
        if folder.files is None
    ]
    if not wanted:
        return 0
    # What is not there either is no object to delete.
    with Lock(at, "mvc gc", WAIT_S), suppress(ObjectMissing):
        transfer.fetch(at, remote, wanted)
    return len(wanted)


def _share(
    at: Layout,
    remote: str,
    commits: Sequence[str],
    found: Survey,
    held: keep.Keeping,
    needed: set[str],
    policy: bool,
) -> tuple[RemoteShare, tuple[str, ...], dict[str, State]]:
    """What goes from a remote.

    Only what a commit there names: an object that no commit names may belong to a push of
    somebody else, which sends objects before refs.
    """
    named = {
        sha: {md5 for f in found.folders[sha] for md5 in f.objects("whole")} - needed
        for sha in (commits if policy else ())
    }
    there = transfer.sizes(at, remote, {md5 for md5s in named.values() for md5 in md5s})
    ours = found.here.keys() | {m for t in trash.listing(at) for m in trash.objects(at, t.id)}
    changed: dict[str, State] = {
        sha: held.state.get(sha, "absent") for sha, md5s in named.items() if md5s & there.keys()
    }
    share = RemoteShare(
        remote=remote,
        num_objects=len(there),
        num_bytes=sum(size or 0 for size in there.values()),
        num_unique_bytes=sum(size or 0 for md5, size in there.items() if md5 not in ours),
        commits=tuple(changed.items()),
    )
    known = collected.read(at, remote)
    return share, _lists_last(set(there)), known | changed


def restore(
    at: Layout, trash_id: str | None = None, *, progress: Progress = SILENT, **extra: str
) -> Restored:
    """Bring back what a gc put into the trash, the newest by default.

    Raises:
        StoreError: there is no such trash, or it was emptied.
    """
    with Lock(at, "mvc gc --restore", WAIT_S):
        if done := workspace.recover(at):
            progress.note(done)
        there = trash.listing(at)
        if trash_id is None and not there:
            raise RepoError("the trash is empty", "`mvc gc` shows what it would put there")
        chosen = trash_id or there[-1].id
        num_objects, num_bytes = trash.put_back(at, chosen)
        trashed.refresh(at)
        oplog.note(at, restored=chosen, **extra)
    return Restored(chosen, num_objects, num_bytes)
