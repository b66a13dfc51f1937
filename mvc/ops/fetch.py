"""`mvc fetch`: the remote's commits and the objects of its newest state, without moving a branch.

Also what pull, clone and checkout share: bringing the objects of commits, whole or only those
that inference needs. What arrives is checked against the commits before it is visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from mvc.errors import MissingExtra, MvcError, ObjectCorrupt, ObjectMissing, RemoteError
from mvc.sharing import FetchResult, Remote, Transfer, Wanted
from mvc.store import (
    collected,
    history,
    manifest,
    places,
    pointers,
    refs,
    remotes,
    tracked,
    transfer,
    workspace,
)
from mvc.store.layout import STATE, Layout
from mvc.store.lock import Lock
from mvc.store.survey import part
from mvc.types import SILENT, Progress

NOTHING = Transfer(0, 0, 0)
_TRAINING = {".pt", ".pth", ".bin"}
_TRAINING_RECORDS = {"trainer_state.json", "optimizer_parameters.json"}


def fetch(
    at: Layout, remote: str | None = None, *, all_states: bool = False, progress: Progress = SILENT
) -> FetchResult:
    """Bring what the remote has of HEAD's branch; nothing here moves.

    Args:
        at: The model repo.
        remote: Its name; by default the one that the branch follows, or the only one.
        all_states: The objects of every commit, of all branches and snapshots, not only of the
            branch's newest.
        progress: Hears of the phases and bytes.

    Raises:
        RemoteError: the remote is not there, or refuses.
        ObjectMissing: it lacks an object that its commits need.
        ObjectCorrupt: what it sent does not hold; it was thrown away.
    """
    with Lock(at, "mvc fetch"):
        if done := workspace.recover(at):
            progress.note(done)
        found = shared(at, remote)
        progress.stage(f"Asking {found.name}")
        seen = refs.fetch_refs(at, found.name)
        branch, head = tracked.head(at.root)
        theirs = tracked.commit_of(at.root, refs.tracking(found.name, branch)) if branch else None
        wanted = [theirs] if theirs else []
        if all_states:
            wanted = refs.reached(at.root, found.name)
        with telling_of_a_move(at, found.name, theirs):
            moved = bring(at, found.name, wanted, progress)
        progress.stop()
        ahead, behind = refs.ahead_behind(at.root, head, theirs) if head and theirs else (0, 0)
        new = history.log(at.root, f"{head}..{theirs}", first_parent=False) if behind else []
    return FetchResult(
        remote=found.name,
        branch=branch if theirs else None,
        ahead=ahead,
        commits=tuple(new),
        snapshots=seen.new_snapshots,
        differing=seen.differing,
        objects=moved,
    )


def shared(at: Layout, remote: str | None) -> Remote:
    """The remote of that name, once it is sure that it has both halves.

    Raises:
        RemoteError: there is none, or only git or only DVC knows it.
    """
    found = remotes.get(at, remote)
    for half, url, flag in (("git", found.git_url, "--git"), ("DVC", found.data_url, "--data")):
        if url is None:
            raise RemoteError(
                f"remote {found.name} has no {half} half",
                f"add it: `mvc remote add {found.name} --git URL --data URL`, {flag} being new",
            )
    places.pin(at, found.name)
    return found


def bring(
    at: Layout,
    remote: str,
    commits: Sequence[str],
    progress: Progress,
    *,
    adapter_only: bool = False,
) -> Transfer:
    """Fetch the objects that the cache lacks of these commits, their lists of files first.

    With `adapter_only` neither the batch nor what only training needs. What `mvc gc` took from the
    remote is left out.
    """
    gone = collected.read(at, remote)
    thin = [each for each in commits if gone.get(each) == "thin"]
    whole = [each for each in commits if each not in gone]
    first = transfer.fetch(at, remote, manifest.listings(at, whole + thin), progress)
    wanted = manifest.files(at, whole)
    wanted += [each for each in manifest.files(at, thin) if not is_moments(each)]
    if adapter_only:
        wanted = [each for each in wanted if _infers(each)]
    moved = add(first, transfer.fetch(at, remote, wanted, progress))
    if not adapter_only:
        collected.forget(at, whole)
    return moved


@contextmanager
def telling_of_a_move(at: Layout, remote: str, commit: str | None) -> Iterator[None]:
    """Let the error for objects that cannot be had tell of another place that `commit` records."""
    try:
        yield
    except (ObjectMissing, RemoteError) as error:
        found = places.moved(at, remote, commit) if commit else None
        if commit is None or found is None:
            raise
        kind = ObjectMissing if isinstance(error, ObjectMissing) else RemoteError
        raise kind(
            f"{error.message}; this machine looks for the objects of {remote} at {found.here}, "
            f"and commit {commit[:10]} says {found.there}",
            f"if you trust that, use it on this machine: `{found.command}`",
        ) from error


def is_moments(wanted: Wanted) -> bool:
    """Whether it is a file that a thinned state does without."""
    folder, _, path = wanted.path.partition("/")
    return part(folder, path) == "moments"


def _infers(wanted: Wanted) -> bool:
    path = PurePosixPath(wanted.path)
    if path.parts[0] != STATE:
        return False
    return path.suffix not in _TRAINING and path.name not in _TRAINING_RECORDS


def complete(at: Layout, commit: str, progress: Progress) -> Transfer:
    """Make sure that the cache has what `commit` needs, from whichever remotes have it.

    One that cannot be used, or lacks some, keeps no other from being asked. Without a remote
    nothing is done: whoever needs an object then says which one is missing. So it is where the
    record of each remote says that `mvc gc` took it.

    Raises:
        ObjectMissing: no remote has it.
        ObjectCorrupt: the commit's manifest lies, or what a remote sent does not hold.
        MissingExtra: a remote that might have it speaks a protocol that is not installed.
        RemoteError: no remote that might have it can be reached.
    """
    if not lacking(at, commit):
        manifest.files(at, [commit])  # raises where the commit's manifest lies
        return NOTHING
    failed: MvcError | None = None
    moved = NOTHING
    for remote in sorted(remotes.listing(at), key=lambda each: not each.default):
        if remote.data_url is None:
            continue
        progress.stage(f"Fetching the state of {commit[:10]} from {remote.name}")
        try:
            moved = add(moved, bring(at, remote.name, [commit], progress))
        except (ObjectMissing, ObjectCorrupt, MissingExtra, RemoteError) as error:
            failed = failed or error
        if not lacking(at, commit):
            manifest.files(at, [commit])
            return moved
    if failed is not None:
        raise failed
    return moved


def lacking(at: Layout, commit: str) -> bool:
    """Whether the cache lacks something of what `commit` needs."""
    with pointers.naming(commit):
        return any(pointers.missing(at, each) for each in tracked.pointers_of(at.root, commit))


def add(a: Transfer, b: Transfer) -> Transfer:
    """Both transfers as one."""
    return Transfer(
        a.num_objects + b.num_objects, a.num_bytes + b.num_bytes, a.num_present + b.num_present
    )
