"""States that `mvc gc` thinned or took: what is left of them, and where to go on instead."""

from __future__ import annotations

import shlex

from mvc.errors import MissingExtra, MvcError, ObjectMissing, RemoteError
from mvc.keeping import State
from mvc.store import collected, config, history, manifest, pointers, refs, tracked, trash
from mvc.store.layout import STATE, Layout
from mvc.store.survey import part
from mvc.types import Commit, Progress


def bring(at: Layout, commit: str, progress: Progress, *, thin: bool = False) -> bool:
    """Make sure that `commit`'s state is here whole, from a remote where it has to be.

    Args:
        at: The model repo.
        commit: A full hash.
        progress: Hears of the transfer.
        thin: Its adapter will do where `mvc gc` gave up the rest.

    Returns:
        Whether all is here; False: it is thin.

    Raises:
        ObjectMissing: it is not to be had; where gc took it, the nearest whole state is named.
        ObjectCorrupt: the commit's manifest lies, or what a remote sent does not hold.
        RemoteError: no remote that might have it can be reached.
        MissingExtra: one that might have it needs a package that is not installed.
    """
    with pointers.naming(commit):
        whole = left_of(at, commit) == "whole"
    if whole:
        manifest.files(at, [commit])  # raises where the commit's manifest lies
        return True
    from mvc.ops.fetch import complete

    failed: MvcError | None = None
    try:
        complete(at, commit, progress)
    except (ObjectMissing, MissingExtra, RemoteError) as error:
        failed = error
    left = left_of(at, commit)
    if left == "whole" and failed is None:
        return True
    if state_given_up(at, commit) is None:
        if left != "whole" and (back := _way_back(at, commit)):
            told = f"the state of {commit[:10]} was deleted by `mvc gc`"
            raise ObjectMissing(told, back) from failed
        if failed is not None:
            raise failed
        return True  # whoever needs the object names it
    if left == "thin" and thin:
        return False
    raise refusal(at, commit, left) from failed


def left_of(at: Layout, commit: str) -> State:
    """What of a commit's state and data is here."""
    lacks: list[tuple[str, str]] = []
    for pointer in tracked.pointers_of(at.root, commit):
        lacks += [(pointer.path, path) for path in pointers.missing(at, pointer)]
    if not lacks:
        return "whole"
    return "thin" if all(part(*each) == "moments" for each in lacks) else "absent"


def state_given_up(at: Layout, commit: str) -> State | None:
    """What `mvc gc` left of the commit, here or on a remote; None where it left it alone."""
    records = [collected.read(at), *(collected.read(at, name) for name in refs.recording(at.root))]
    return next((record[commit] for record in records if commit in record), None)


def refusal(at: Layout, commit: str, left: State) -> ObjectMissing:
    """The error for who needs the whole state of a commit that gave it up."""
    what = "its adapter is here, its moments are gone" if left == "thin" else "it is gone"
    found, back = nearest_whole(at, commit), _way_back(at, commit)
    hints = [back] if back else []
    if found is not None:
        number = f" (@{found.batch})" if found.batch else ""
        hints.insert(
            0, f"the nearest whole state before it is `mvc checkout {found.short}`{number}"
        )
    elif left == "thin" and not back:
        base = shlex.quote(config.load(at).base.model)
        hints.append(
            f"no whole state is left before it: `mvc export {commit[:10]} DIR`, then `mvc import "
            f"DIR NEW --base {base}`, is a new line from its adapter, with fresh moments and a "
            "warm-up"
        )
    elif not back:
        hints.append("no whole state is left before it: `mvc log` tells what is left")
    told = f"`mvc gc` gave up the state of {commit[:10]}: {what}"
    return ObjectMissing(told, "; ".join(hints))


def _way_back(at: Layout, commit: str) -> str:
    """What brings the commit's state back from the trash, if all of it is there."""
    where: dict[str, str] = {}
    for each in trash.listing(at):
        where |= dict.fromkeys(trash.objects(at, each.id), each.id)
    if not where:
        return ""
    cache, used = pointers.cache_folder(at), dict[str, None]()
    for pointer in tracked.pointers_of(at.root, commit):
        listing = pointer.md5
        here = pointers.object_path(cache, listing).is_file()
        if not here and listing not in where:
            return ""
        store = cache if here else trash.folder_of(at, where[listing])
        for md5 in (listing, *(md5 for _, md5, _ in pointers.entries_in(store, pointer))):
            if not pointers.object_path(cache, md5).is_file():
                if md5 not in where:
                    return ""
                used[where[md5]] = None
    commands = " and ".join(f"`mvc gc --restore {each}`" for each in used)
    return f"{commands} {'brings' if len(used) == 1 else 'bring'} it back" if used else ""


def nearest_whole(at: Layout, commit: str) -> Commit | None:
    """The newest commit before this one, in what it has learnt, whose state is whole here."""
    record = collected.read(at)
    for each in history.effective_line(at.root, commit):
        if each.commit == commit or each.commit in record:
            continue
        found = [p for p in tracked.pointers_of(at.root, each.commit) if p.path == STATE]
        if found and not any(pointers.missing(at, pointer) for pointer in found):
            return each
    return None
