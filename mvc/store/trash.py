"""Deleted objects at rest: out of the cache, and back into it, by renames.

Owns `.mvc/trash/ID/`: a manifest, written before the first object comes, and the objects under
their names in `files/md5/`. A folder without a manifest is one that is being emptied. Decides
nothing about what goes; every writing call is under the lock.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mvc.errors import StoreError
from mvc.keeping import Trash
from mvc.store.files import atomic_write, no_space, sync_file, temporary
from mvc.store.layout import Layout
from mvc.store.pointers import cache_folder, object_path
from mvc.store.survey import objects_in

_MANIFEST = "manifest.json"


def begin(layout: Layout, when: datetime) -> str:
    """Make an empty trash; returns its id."""
    stem = when.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    name, number = stem, 2
    while (layout.trash / name).exists():
        name, number = f"{stem}-{number}", number + 1
    said = {"id": name, "time": when.isoformat()}
    atomic_write(layout.trash / name / _MANIFEST, json.dumps(said).encode())
    return name


def take(layout: Layout, trash: str, md5s: Iterable[str]) -> int:
    """Move objects out of the cache; those that are not there are passed over.

    Returns:
        Their bytes.
    """
    cache, here = cache_folder(layout), _objects(layout, trash)
    num_bytes = 0
    for md5 in md5s:
        source = object_path(cache, md5)
        try:
            num_bytes += source.stat().st_size
        except FileNotFoundError:
            continue
        _move(source, object_path(here, md5))
    return num_bytes


def put_back(layout: Layout, trash: str) -> tuple[int, int]:
    """Move all of a trash back into the cache and end it.

    Returns:
        The number of objects and their bytes.

    Raises:
        StoreError: there is no such trash; the hint names those that there are.
    """
    folder = layout.trash / trash
    if not (folder / _MANIFEST).is_file():
        others = ", ".join(each.id for each in listing(layout)) or "none"
        raise StoreError(
            f"there is no trash {trash}, or it was emptied",
            f"those that can be brought back: {others}",
        )
    cache, here = cache_folder(layout), _objects(layout, trash)
    found = objects_in(here)
    # A folder's list comes last: with it there, all is.
    for md5 in sorted(found, key=lambda each: each.endswith(".dir")):
        _move(object_path(here, md5), object_path(cache, md5))
    empty(layout, [trash])
    return len(found), sum(found.values())


def bring_back(layout: Layout, md5s: Iterable[str]) -> int:
    """Move these objects, from whichever trash has them, back into the cache.

    Returns:
        Their bytes.
    """
    cache, wanted, num_bytes = cache_folder(layout), set(md5s), 0
    for each in listing(layout):
        there = objects(layout, each.id)
        for md5 in sorted(wanted & there.keys(), key=lambda md5: md5.endswith(".dir")):
            _move(object_path(_objects(layout, each.id), md5), object_path(cache, md5))
            num_bytes += there[md5]
            wanted.remove(md5)
    return num_bytes


def folder_of(layout: Layout, trash: str) -> Path:
    """Where a trash keeps its objects, laid out as a cache."""
    return _objects(layout, trash)


def listing(layout: Layout) -> list[Trash]:
    """What can be brought back, oldest first."""
    found = []
    for manifest in sorted(layout.trash.glob(f"*/{_MANIFEST}")):
        try:
            when = datetime.fromisoformat(json.loads(manifest.read_bytes())["time"])
        except (ValueError, KeyError, TypeError, OSError):
            when = datetime.fromtimestamp(manifest.stat().st_mtime, UTC)
        sizes = objects(layout, manifest.parent.name)
        found.append(Trash(manifest.parent.name, when, len(sizes), sum(sizes.values())))
    return found


def empty(layout: Layout, trashes: Sequence[str] = ()) -> None:
    """Delete these trashes, and what a killed process left of others."""
    for name in trashes:
        (layout.trash / name / _MANIFEST).unlink(missing_ok=True)
    for folder in layout.trash.glob("*"):
        if not (folder / _MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)


def objects(layout: Layout, trash: str) -> dict[str, int]:
    """The objects of a trash and their sizes in bytes."""
    return objects_in(_objects(layout, trash))


def _objects(layout: Layout, trash: str) -> Path:
    return layout.trash / trash / "files" / "md5"


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a cache of the user's own on another disk
            raise
        half = temporary(target.parent.parent)
        with no_space("the object is where it was"):
            try:
                shutil.copyfile(source, half)
                half.chmod(0o444)
                sync_file(half)
                half.replace(target)
            finally:
                half.unlink(missing_ok=True)
        source.unlink()
