"""What lies in the trash and is needed again: it comes back, and is never emptied.

A pin, a branch, a tag or a wider rule may come after the gc that took a state. What they keep is
looked for in the trash as well as in the cache. That no remote has it is no such reason: the user
let go of it by name.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from mvc.errors import MvcError
from mvc.keeping import LEAST, State
from mvc.ops import keep
from mvc.settings import Settings
from mvc.store import collected, pointers, trash
from mvc.store.layout import Layout
from mvc.store.survey import Folder, Survey, survey
from mvc.types import Pointer


def needed(at: Layout, settings: Settings, now: datetime, found: Survey | None = None) -> set[str]:
    """The objects of any trash that a commit needs which is kept by now."""
    where = _where(at)
    if not where:
        return set()
    found = found or survey(at, keep.remembered(at, settings, now))
    held = keep.keeping(at, found, settings, now, unpushed=True)
    wanted: set[str] = set(found.others)
    for commit, state in held.state.items():
        for folder in found.folders[commit]:
            wanted.update(_listed(at, folder, where).objects(state))
    return (wanted & where.keys()) - found.here.keys()


def _where(at: Layout) -> dict[str, str]:
    """The trash of each object that lies in one."""
    return {md5: each.id for each in trash.listing(at) for md5 in trash.objects(at, each.id)}


def _listed(at: Layout, folder: Folder, where: dict[str, str]) -> Folder:
    """The folder with its files, also where its list lies in a trash."""
    if folder.files is None and folder.listing in where:
        with suppress(MvcError):
            store = trash.folder_of(at, where[folder.listing])
            listed = pointers.entries_in(store, Pointer(folder.name, folder.listing, 0, 0))
            files = tuple((path, md5) for path, md5, _ in listed)
            return Folder(folder.name, folder.listing, files)
    return folder


def bring_back(at: Layout, settings: Settings, now: datetime) -> tuple[int, int]:
    """Move what is needed out of the trash; under the lock.

    Returns:
        The number of objects and their bytes.
    """
    wanted = needed(at, settings, now)
    num_bytes = trash.bring_back(at, wanted) if wanted else 0
    if wanted:
        refresh(at)
    return len(wanted), num_bytes


def of_commit(at: Layout, commit: str) -> None:
    """Bring back what lies in the trash of a commit that gave it up; under the lock."""
    if commit not in collected.read(at) or not (where := _where(at)):
        return
    folders = [_listed(at, each, where) for each in survey(at).folders.get(commit, ())]
    trash.bring_back(at, {md5 for each in folders for md5 in each.objects("whole")} & where.keys())
    refresh(at)


def refresh(at: Layout) -> None:
    """Let `collected` say only what is so: what came back is no longer missing.

    Less than it says is damage, and no business of `mvc gc`.
    """
    known = collected.read(at)
    if not known:
        return
    found = survey(at)
    states: dict[str, State] = {
        sha: max(left, found.state(sha, found.here), key=LEAST.index)
        if sha in found.folders
        else left  # no ref reaches it now
        for sha, left in known.items()
    }
    collected.write(at, {sha: state for sha, state in states.items() if state != "whole"})
