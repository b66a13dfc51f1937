"""DVC's cache: files go into it by their hash, durably, without a second copy.

Owns every write to the cache, and how DVC is opened and set up. Refuses a file that changed after
it was hashed. What comes out of the cache is `objects`'s.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvc.errors import MvcError, StoreError
from mvc.hashing import Hashes
from mvc.store.files import TEMPORARY, atomic_write, no_space, sync_file, sync_folders, temporary
from mvc.store.layout import Layout
from mvc.store.pointers import cache_folder, object_path, walk
from mvc.types import FileDigest, Pointer

INIT_FILES = (".dvc/.gitignore", ".dvc/config", ".dvcignore")
"""What `init` writes and the first commit must track."""
PROTECTED = 0o444
"""Permission bits of an object (dvc_data/hashfile/db/local.py, LocalHashFileDB.CACHE_MODE)."""
_BLOCK = 8 << 20
_LINKS = "reflink,hardlink,symlink,copy"


@contextmanager
def refusals() -> Iterator[None]:
    """What DVC refuses, in our words.

    Raises:
        StoreError: in place of DVC's own error.
    """
    _hush()
    try:
        yield
    except MvcError:
        raise
    except Exception as error:
        from dvc.exceptions import DvcException  # 0.1 s, for who did not ask DVC

        if not isinstance(error, DvcException):
            raise
        raise StoreError(f"DVC refused: {error}", "run `dvc doctor` to see its set-up") from error


def _hush() -> None:
    """Keep DVC's remarks off stdout, which may be a JSON document."""
    import logging

    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.ERROR)


def init(layout: Layout) -> None:
    """Make the git repository at `layout.root` a DVC repository, quietly, without a commit.

    DVC stages `INIT_FILES` in git's index. Links are tried in the order reflink, hardlink,
    symlink, copy; analytics and update checks are off.

    Raises:
        StoreError: it is one already, or is no git repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    _hush()
    try:
        with no_space():
            repo = Repo.init(str(layout.root))
            with repo.config.edit("repo") as config:
                config["core"] |= {
                    "autostage": "false",
                    "analytics": "false",
                    "check_update": "false",
                }
                config["cache"]["type"] = _LINKS
            repo.close()
    except DvcException as error:
        raise StoreError(
            f"DVC cannot be set up in {layout.root}: {error}", "choose a new folder"
        ) from error


def hash_file(path: Path, rel: str) -> FileDigest:
    """md5 and sha256 of a file in one read; `rel` becomes its `path`."""
    hashes = Hashes()
    with path.open("rb", buffering=0) as file:
        size = min(_BLOCK, os.fstat(file.fileno()).st_size + 1)
        now, after = memoryview(bytearray(size)), memoryview(bytearray(size))
        count = file.readinto(now)
        while count:
            with hashes.taking(now[:count]):
                count = file.readinto(after)
            now, after = after, now
    return hashes.digest(rel)


def hash_folder(folder: Path) -> tuple[FileDigest, ...]:
    """Every file below `folder`, hashed, sorted by path."""
    names = sorted(walk(folder))

    def hashed(rel: str) -> FileDigest:
        return hash_file(folder / rel, rel)

    if sum((folder / rel).stat().st_size for rel in names) < _BLOCK:
        return tuple(map(hashed, names))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # adapter and moments beside each other
        return tuple(pool.map(hashed, names))


def store_folder(
    layout: Layout,
    source: Path,
    files: Sequence[FileDigest],
    name: str,
    meta: dict[str, Any],
    *,
    keep_source: bool = False,
) -> Pointer:
    """Put a folder into DVC's cache, durably, and return its pointer.

    An object that is there with the right size is trusted. The others are renamed into the cache
    where it is on the same file system: `source` is then empty of them. It is safe to call again
    after a kill with the files that are left.

    Args:
        layout: The repo.
        source: The folder that holds `files`.
        files: What to store, already hashed.
        name: The pointer's path: the folder's name in the workspace.
        meta: Our own record in the pointer.
        keep_source: The files stay the user's: they are cloned or copied, never linked.

    Raises:
        StoreError: a file changed after it was hashed, or is gone.
        DiskFull: no space left; what is in the cache already stays there and is whole.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    cache = cache_folder(layout)
    touched: set[Path] = set()
    tree = Tree()
    with no_space("the old state is whole"):
        for file in files:
            tree.add(tuple(file.path.split("/")), None, HashInfo("md5", file.md5))
            target = object_path(cache, file.md5)
            if target.is_file() and target.stat().st_size == file.size_bytes:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            touched |= {target.parent, target.parent.parent}
            _store_file(source / file.path, file, target, keep_source)
        sync_folders(touched)
        tree.digest()
        assert tree.oid is not None
        listing, content = object_path(cache, tree.oid), tree.as_bytes()
        if not listing.is_file() or listing.read_bytes() != content:
            atomic_write(listing, content, PROTECTED, half=temporary(cache))
            sync_folders([cache])
    return Pointer(name, tree.oid, sum(f.size_bytes for f in files), len(files), meta)


def _store_file(source: Path, file: FileDigest, target: Path, keep_source: bool) -> None:
    """Move or copy one file to its place in the cache."""
    try:
        if source.stat().st_size != file.size_bytes:
            raise _altered(source)
        if not keep_source:
            sync_file(source)
            source.chmod(PROTECTED)
            try:
                source.replace(target)
                return
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        half = temporary(target.parent.parent)  # one folder, where `sweep` finds it
        try:
            _copy(source, half)
            if hash_file(half, file.path).md5 != file.md5:
                raise _altered(source)
            half.chmod(PROTECTED)
            sync_file(half)
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)
    except FileNotFoundError as error:
        raise _altered(source) from error


def sweep(layout: Layout) -> None:
    """Remove the half-written files of killed processes; only under the lock."""
    for folder in (cache_folder(layout), layout.private):
        for half in folder.glob(f"{TEMPORARY}*.tmp*"):  # with the lock of a git beside it
            half.unlink(missing_ok=True)


def _altered(source: Path) -> StoreError:
    return StoreError(
        f"{source} changed or vanished while it was being stored",
        "leave the file alone until the command is done, then run the same command again",
    )


def _copy(source: Path, target: Path) -> None:
    """Clone `source`'s blocks where the file system can, else copy them."""
    from dvc_objects.fs.system import reflink

    try:
        reflink(str(source), str(target))
    except OSError:
        shutil.copyfile(source, target)
