"""Stored folders in the workspace: links out of DVC's cache, and what differs from it.

Owns every write to `current_model/` and `batch/`, and telling DVC's state database about it, so
that `dvc status` re-reads nothing. Refuses to destroy: a workspace file whose content is not in
the cache is moved to `.mvc/lost/`. Going into the cache (`cache`) and what can be told without
importing DVC (`pointers`) are offered here too: the rest of mvc needs this one name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mvc.errors import ObjectCorrupt, ObjectMissing, StoreError
from mvc.sharing import Wanted
from mvc.store import known
from mvc.store.cache import (
    INIT_FILES,
    PROTECTED,
    hash_file,
    hash_folder,
    init,
    store_folder,
    sweep,
)
from mvc.store.files import TEMPORARY, no_space, sync_file, sync_folders, temporary
from mvc.store.layout import Layout
from mvc.store.pointers import (
    cache_folder,
    entries,
    format_pointer,
    looks_clean,
    missing,
    object_path,
    parse_pointer,
    require,
    verify_object,
    walk,
)
from mvc.types import FileDigest, Pointer

opened = known.database
"""For a whole operation: what it asks of the database of hashes opens it once."""

__all__ = [
    "INIT_FILES",
    "cache_folder",
    "changed",
    "entries",
    "format_pointer",
    "hash_file",
    "hash_folder",
    "init",
    "link",
    "link_present",
    "looks_clean",
    "missing",
    "object_path",
    "opened",
    "parse_pointer",
    "remember",
    "require",
    "rescue",
    "store_folder",
    "sweep",
    "unlink",
    "unsaved",
    "verify",
    "verify_object",
]


def _md5(state: Any, path: Path) -> str | None:
    """The md5 of `path`, read only if the state database does not know; None if unreadable."""
    md5 = known.md5_of(state, path)
    if md5 is None and path.is_file():
        now = known.info(path)
        md5 = hash_file(path, path.name).md5
        known.save(state, path, md5, now)
    return md5


def _is_stored(layout: Layout, state: Any, path: Path) -> bool:
    """Whether the content of `path` is in the cache, or is nothing at all."""
    if path.name.startswith(TEMPORARY) or not path.exists():
        return True
    md5 = _md5(state, path)
    return md5 is not None and object_path(cache_folder(layout), md5).is_file()


def rescue(layout: Layout, path: Path) -> Path:
    """Move a workspace file that nothing else holds to `.mvc/lost/`; returns where it is now."""
    folder = layout.private / "lost"
    target = folder / path.relative_to(layout.root)
    number = 1
    while target.exists():
        target = folder / f"{path.relative_to(layout.root)}.{number}"
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target


def changed(layout: Layout, pointer: Pointer) -> tuple[str, ...]:
    """The files of the workspace folder that differ from the pointer: modified, added, removed.

    A file that DVC's state database knows (inode, mtime, size) is not read.

    Raises:
        ObjectMissing: the folder's list of files is not in the cache.
    """
    folder = layout.root / pointer.path
    wanted = {path: md5 for path, md5, _ in entries(layout, pointer)}
    present = walk(folder)
    with known.database(layout) as state:
        modified = {p for p in present & set(wanted) if _md5(state, folder / p) != wanted[p]}
    return tuple(sorted(modified | (present ^ set(wanted))))


def unsaved(layout: Layout, name: str) -> tuple[str, ...]:
    """The files of the workspace folder `name` whose content is not in the cache."""
    folder = layout.root / name
    present = walk(folder)
    if not present:
        return ()
    with known.database(layout) as state:
        return tuple(p for p in sorted(present) if not _is_stored(layout, state, folder / p))


def link(layout: Layout, pointer: Pointer, *, overwrite: bool = True) -> int:
    """Make the workspace folder exactly the stored one, by read-only links from the cache.

    Only what differs is touched. A file is replaced or removed by one rename, so that a kill
    leaves each file old or new; calling it again finishes.

    Args:
        layout: The repo.
        pointer: The stored folder and where it belongs.
        overwrite: False only adds files that are missing, and leaves the others alone.

    Returns:
        The number of files linked or removed.

    Raises:
        ObjectMissing: an object is not in the cache; nothing was touched.
        DiskFull: no space for copies (links need none).
    """
    require(layout, pointer, None)
    wanted = {path: md5 for path, md5, _ in entries(layout, pointer)}
    return _lay(layout, pointer.path, wanted, overwrite)


def link_present(layout: Layout, pointer: Pointer) -> int:
    """Like `link`, for a stored folder of which only some objects are here: the others are left
    out of the workspace, so that nothing there belongs to another commit."""
    absent = set(missing(layout, pointer))
    if pointer.md5 in absent:
        return unlink(layout, pointer.path)
    listed = entries(layout, pointer)
    wanted = {path: md5 for path, md5, _ in listed if path not in absent}
    return _lay(layout, pointer.path, wanted, True)


def verify(
    layout: Layout,
    wanted: Sequence[Wanted],
    held: Callable[[], Sequence[Wanted]] = tuple,
    *,
    deep: bool = True,
) -> None:
    """Read objects whole and refuse one that is not what its commit vouches for.

    What is not in the cache is `require`'s to tell.

    Args:
        layout: The repo.
        wanted: The objects, `path` being where they belong in the workspace.
        held: What the workspace stands on: an object vouched for alike there is not read again
            while the file is as DVC last saw it. Asked where something is to be read.
        deep: Read also what is as it was when it was last read (inode, mtime and size in DVC's
            state database). Reading costs four times a copy (FACTS.md, md5), a checkout next to
            nothing: it trusts, and so does a pull what it hashed on its way. Training does not.

    Raises:
        ObjectCorrupt: naming the file, the commit and what is wrong.
    """
    cache = cache_folder(layout)
    trusted: set[tuple[str, str | None, int | None]] | None = None
    with known.database(layout) as state:
        for item in wanted:
            path, here = object_path(cache, item.md5), layout.root / item.path
            if not path.is_file() or (not deep and _seen(state, path, item)):
                continue
            if trusted is None:
                trusted = {(each.md5, each.sha256, each.size_bytes) for each in held()}
            same = (item.md5, item.sha256, item.size_bytes) in trusted
            if same and known.md5_of(state, here) == item.md5:
                continue
            found = hash_file(path, item.path)
            if item.size_bytes not in (None, found.size_bytes):
                problem = f"is {found.size_bytes} bytes, should be {item.size_bytes}"
            elif found.md5 != item.md5:
                problem = f"should hash to {item.md5}, hashes to {found.md5}"
            elif item.sha256 not in (None, found.sha256):
                problem = "does not match the SHA-256 that the commit vouches for"
            else:
                known.remember(state, path, found)
                continue
            raise ObjectCorrupt(
                f"{item.path} of commit {item.commit[:10]} is damaged in the cache: it {problem}",
                "`mvc fsck --repair` mends it from a remote; `mvc fsck` shows all that is damaged",
            )


def remember(layout: Layout, files: Sequence[FileDigest]) -> None:
    """Note that objects were hashed while they were written: a checkout need not read them."""
    cache = cache_folder(layout)
    with known.database(layout) as state:
        for file in files:
            known.remember(state, object_path(cache, file.md5), file)


def _seen(state: Any, path: Path, item: Wanted) -> bool:
    """Whether the object was read before, found to be what `item` says, and is as it was then."""
    size_holds = item.size_bytes in (None, path.stat().st_size)
    return size_holds and known.both_of(state, path) == f"{item.md5}-{item.sha256}"


def unlink(layout: Layout, name: str) -> int:
    """Remove the workspace folder `name`, that the commit does not have; returns the file count."""
    return _lay(layout, name, {}, True) if (layout.root / name).is_dir() else 0


def _lay(layout: Layout, name: str, wanted: dict[str, str], overwrite: bool) -> int:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.fs.local import localfs

    folder = layout.root / name
    if folder.is_symlink() or folder.is_file():
        raise StoreError(
            f"{name} is not a folder", f"move it away (`mv {name} {name}.mine`) and try again"
        )
    count = 0
    with known.database(layout) as state, no_space("run the same command again to finish"):
        cache, links = cache_folder(layout), known.links(layout)
        for path in sorted(walk(folder) - set(wanted)) if overwrite else ():
            if _is_stored(layout, state, folder / path):
                (folder / path).unlink()
            else:
                rescue(layout, folder / path)
            count += 1
        _prune(folder, wanted)
        told = []
        for path, md5 in wanted.items():
            target, source = folder / path, object_path(cache, md5)
            if known.md5_of(state, target) == md5:
                continue
            if not (target.is_file() and target.samefile(source)):
                if target.exists() and not overwrite:
                    continue
                if (link := _linked(folder, target)) is not None:
                    raise StoreError(
                        f"{link} is a link, and {path} would be written through it",
                        f"remove it (`rm {link}`), then run the same command again",
                    )
                if not _is_stored(layout, state, target):
                    rescue(layout, target)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_file(source, target, links)
                count += 1
            told.append((str(target), HashInfo("md5", md5), known.info(target)))
        if folder.is_dir():
            sync_folders({folder} | {(folder / path).parent for path in wanted})
            state.save_many(told, localfs)
            # DVC removes a folder that it linked itself when no pointer names it any more
            state.save_link(str(folder), localfs)
    return count


def _linked(folder: Path, target: Path) -> Path | None:
    """A link in the place of a folder between `folder` and `target`, if there is one."""
    parents = [p for p in target.parents if p.is_relative_to(folder)]
    return next((p for p in parents if p.is_symlink()), None)


def _link_file(source: Path, target: Path, links: list[str]) -> None:
    """Put `source` at `target` by the first of `links` that works; those that fail are dropped."""
    from dvc_objects.fs.generic import transfer
    from dvc_objects.fs.local import localfs

    half = temporary(target.parent)
    try:
        transfer(localfs, str(source), localfs, str(half), links=links)
        if not half.is_symlink():
            half.chmod(PROTECTED)
            if not half.samefile(source):
                sync_file(half)
        half.replace(target)
    except FileNotFoundError as error:
        raise ObjectMissing(f"{source.name} vanished from the cache", "run `mvc fsck`") from error
    finally:
        half.unlink(missing_ok=True)


def _prune(folder: Path, wanted: dict[str, str]) -> None:
    """Remove the folders below (and at) `folder` that nothing wanted lies in and that are empty."""
    needed = {folder / parent for path in wanted for parent in Path(path).parents}
    for here, _, _ in os.walk(folder, topdown=False):
        if Path(here) not in needed and not os.listdir(here):  # noqa: PTH208
            Path(here).rmdir()
