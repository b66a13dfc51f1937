"""What `mvc fsck` does with a remote: checking what lies there, and mending either side.

Owns which objects a remote should hold, and putting whole objects in the place of damaged ones.
Nothing is mended from an object that was not hashed first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvc.errors import MvcError
from mvc.ops.fetch import is_moments
from mvc.sharing import Wanted
from mvc.store import (
    collected,
    history,
    manifest,
    objects,
    pointers,
    refs,
    remotes,
    tracked,
    transfer,
    workspace,
)
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import Progress

Wrong = list[tuple[Wanted, str]]
"""Objects that do not hold, each with what is wrong."""


def cure(name: str) -> str:
    """The hint for an object that is damaged on a remote."""
    return (
        f"where it is whole, `mvc fsck --remote {name} --repair` puts it there again "
        f"(a missing one comes with `mvc push --all {name}` too)"
    )


def remote(
    at: Layout,
    name: str,
    sample: int | None,
    progress: Progress,
    only: Sequence[Wanted] | None = None,
) -> Wrong:
    """What does not hold on a remote, of what its commits need; all of it, or `only` those.

    Lists of files that are not here are fetched, for without them nothing says what to ask for.

    Raises:
        RemoteError: there is no such remote, or it cannot be reached.
    """
    remotes.get(at, name)
    if only is not None:
        return transfer.check_remote(at, name, only, progress=progress) if only else []
    gone = collected.read(at, name)
    commits = refs.reached(at.root, name) or [each.commit for each in history.every(at.root)]
    commits = [each for each in commits if gone.get(each) != "absent"]
    listings = manifest.listings(at, commits)
    progress.stage(f"Checking remote {name}")
    wrong = transfer.check_remote(at, name, listings, progress=progress)
    bad = {each.md5 for each, _ in wrong}
    transfer.fetch(at, name, [each for each in listings if each.md5 not in bad], progress)
    wanted = _files(at, [each for each in commits if each not in gone])
    thin = _files(at, [each for each in commits if each in gone])
    wanted += [each for each in thin if not is_moments(each)]
    return wrong + transfer.check_remote(at, name, wanted, sample=sample, progress=progress)


def excused(at: Layout, name: str) -> int:
    """How many of the remote's commits its record says that `mvc gc` gave up."""
    return len(collected.read(at, name).keys() & set(refs.reached(at.root, name)))


def _files(at: Layout, commits: Sequence[str]) -> list[Wanted]:
    """The files of the commits; those of a commit that cannot be read are left out."""
    try:
        return manifest.files(at, commits)
    except MvcError:  # the look at what is here tells it
        found: dict[tuple[str, str | None], Wanted] = {}
        for commit in commits:
            try:
                found |= {(each.md5, each.sha256): each for each in manifest.files(at, [commit])}
            except MvcError:
                continue
        return list(found.values())


def repair(
    at: Layout, name: str | None, here: Sequence[Wanted], there: Wrong, progress: Progress
) -> int:
    """Bring the objects that are bad `here` from the remote, and those bad `there` from here.

    What neither side has whole stays as it is.

    Returns:
        How many objects were mended, on both sides.

    Raises:
        RemoteError: there is no such remote, or it cannot be reached.
    """
    with Lock(at, "mvc fsck --repair"):
        workspace.recover(at)
        found = remotes.get(at, name).name
        count = 0
        if here:
            progress.stage(f"Mending from {found}")
            wrong = {each.md5 for each, _ in transfer.check_remote(at, found, here)}
            whole = [each for each in here if each.md5 not in wrong]
            linked = _linked(at, [each.md5 for each in whole])
            transfer.fetch(at, found, whole, progress, check=True)
            count += len({each.md5 for each in whole})
            _relink(at, linked)
        if there:
            count += transfer.replace(at, found, {each.md5 for each, _ in there}, progress)
    return count


def _linked(at: Layout, md5s: Sequence[str]) -> list[Path]:
    """The workspace files that are hard links to these objects, and so damaged with them."""
    cache = pointers.cache_folder(at)
    paths = [pointers.object_path(cache, md5) for md5 in md5s]
    inodes = {(s.st_dev, s.st_ino) for p in paths if p.is_file() and (s := p.stat())}
    folders = (at.state, at.batch)
    files = [folder / rel for folder in folders for rel in pointers.walk(folder)]
    return [f for f in files if (s := f.lstat()) and (s.st_dev, s.st_ino) in inodes]


def _relink(at: Layout, damaged: Sequence[Path]) -> None:
    """Put whole files in the place of damaged links; what the user changed is left alone."""
    for path in damaged:
        path.unlink()
    _, head = tracked.head(at.root)
    for pointer in tracked.pointers_of(at.root, head) if head else ():
        if not pointers.missing(at, pointer):
            objects.link(at, pointer, overwrite=False)
