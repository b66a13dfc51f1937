"""What DVC knows of files without reading them: its database of hashes by inode, time and size.

Owns opening it as DVC does, without the rest of DVC (190 ms and as much again for a Repo), and how
an entry is asked and written. Whether to trust it is `objects`'s to say.
"""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mvc import importing
from mvc.errors import StoreError
from mvc.store import configured, foreign
from mvc.store.layout import Layout
from mvc.types import FileDigest

_BOTH = "#md5-sha256"
_held: ContextVar[tuple[Path, Any] | None] = ContextVar("_held", default=None)
_LINKS = "reflink,copy"  # DVC's own default (dvc_data/hashfile/db/local.py)


def expect() -> None:
    """Import in a thread what `database` will need, 0.2 s, while git and the disk are at work."""
    importing.soon("dvc_data.hashfile.state")


@contextmanager
def database(layout: Layout) -> Iterator[Any]:
    """DVC's `State` of this repo, its foreign errors wrapped; inside another, the same one.

    Raises:
        RepoError: the tracked configuration asks for what only this machine may decide.
        StoreError: it cannot be read.
    """
    held = _held.get()
    if held is not None and held[0] == layout.root:
        yield held[1]
        return
    foreign.check_dvc(layout)
    from dvc_data.hashfile.cache import DiskError
    from dvc_data.hashfile.state import State

    try:
        with closing(State(str(layout.root), str(folder(layout)))) as state:
            token = _held.set((layout.root, state))
            try:
                yield state
            finally:
                _held.reset(token)
    except DiskError as error:
        raise StoreError(
            f"DVC's database of hashes cannot be read: {error}", f"delete {folder(layout)}"
        ) from error


def folder(layout: Layout) -> Path:
    """Where DVC keeps that database. In another place DVC would read each file once, no more.

    Source: dvc/repo/__init__.py, Repo.site_cache_dir and Repo._btime; dvc/dirs.py.
    """
    from importlib.metadata import version

    btime = layout.root / ".dvc" / "tmp" / "btime"
    btime.parent.mkdir(exist_ok=True)
    btime.touch() if not btime.exists() else None
    said = configured.option(layout, "core", "site_cache_dir")
    base = os.getenv("DVC_SITE_CACHE_DIR") or (said[0] if said else _site_cache())
    major = int(version("dvc").split(".")[0])
    token = (str(layout.root), None, btime.stat().st_mtime, getpass.getuser(), major, 0)
    md5 = hashlib.md5(str(token).encode(), usedforsecurity=False).hexdigest()
    found = Path(base, "repo", md5)
    if not found.parent.is_dir():
        before = os.umask(0)  # shared by all users, as DVC makes it
        try:
            found.parent.mkdir(parents=True, mode=0o777, exist_ok=True)
        finally:
            os.umask(before)
    found.mkdir(exist_ok=True)
    return found


def _site_cache() -> str:
    import platformdirs
    from platformdirs.unix import Unix

    if issubclass(Unix, platformdirs.PlatformDirs):
        return "/var/tmp/dvc"
    return platformdirs.site_cache_dir("dvc", "iterative", opinion=True)


def links(layout: Layout) -> list[str]:
    """The kinds of links that DVC's configuration wants tried, in order."""
    said = configured.option(layout, "cache", "type")
    return [each.strip() for each in (said[0] if said else _LINKS).split(",")]


def info(path: Path) -> dict[str, Any]:
    """What the database identifies a file by, links followed (dvc_data/fsutils.py)."""
    stat = path.stat()
    return {
        "type": "file",
        "size": stat.st_size,
        "mtime": stat.st_mtime,
        "ino": stat.st_ino,
        "mode": stat.st_mode,
    }


def md5_of(state: Any, path: Path) -> str | None:
    """The md5 that the database has for `path` as it is now, without reading it."""
    from dvc_objects.fs.local import localfs

    try:
        now = info(path)
    except FileNotFoundError:  # gone, or a link to nothing
        return None
    _, found = state.get(str(path), localfs, info=now)
    return str(found.value) if found is not None and found.name == "md5" else None


def save(state: Any, path: Path, md5: str, now: dict[str, Any]) -> None:
    """Note the md5 of `path`, read when `info` said `now`."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.fs.local import localfs

    state.save(str(path), localfs, HashInfo("md5", md5), info=now)


def remember(state: Any, path: Path, found: FileDigest) -> None:
    """Note both hashes of an object; DVC keeps one hash a path and never asks for these two."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.fs.local import localfs

    both = HashInfo("md5-sha256", f"{found.md5}-{found.sha256}")
    state.save(f"{path}{_BOTH}", localfs, both, info=info(path))


def both_of(state: Any, path: Path) -> str:
    """Both hashes that `remember` noted of the object as it is now; empty without."""
    from dvc_objects.fs.local import localfs

    _, known = state.get(f"{path}{_BOTH}", localfs, info=info(path))
    return "" if known is None else str(known.value)
