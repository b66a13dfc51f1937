"""Durable files: written whole or not at all, and still there after a power cut.

Owns fsync, atomic replacement, and telling a full disk from other errors. Refuses to know what a
file means.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mvc.errors import DiskFull
from mvc.store.git import NO_ROOM, GitFailed

TEMPORARY = ".mvc-"
"""Names that begin so are half-written files of a killed process; nobody misses them."""


def temporary(folder: Path) -> Path:
    """A fresh name in `folder` for a file that is not whole yet."""
    return folder / f"{TEMPORARY}{secrets.token_hex(8)}.tmp"


def sync_file(path: Path) -> None:
    """fsync one file's content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folders(folders: Iterable[Path]) -> None:
    """fsync the folders' entries, so that renames into them survive a power cut."""
    for folder in sorted(set(folders)):
        sync_file(folder)


def atomic_write(
    path: Path, data: bytes, mode: int | None = None, *, half: Path | None = None
) -> None:
    """Replace `path` by `data`, durably; a reader sees the old bytes or the new ones.

    Args:
        path: The file; its folder is made where it is missing.
        data: The whole content.
        mode: Permission bits (0o444); None leaves what the umask gives.
        half: Where to write first, on the same file system; by default beside `path`.

    Raises:
        DiskFull: no space left; the old content is whole.
    """
    with no_space():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = half or temporary(path.parent)
        half.parent.mkdir(parents=True, exist_ok=True)
        try:
            with half.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                half.chmod(mode)
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
        sync_folders([path.parent])


@contextmanager
def no_space(what: str = "nothing was changed") -> Iterator[None]:
    """Turn "no space left", from the system, from git or from DVC's database, into DiskFull.

    Args:
        what: What holds in spite of it, for the message; the outermost one counts, because it
            knows what was done before.

    Raises:
        DiskFull: instead of the foreign error.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise DiskFull(
            f"no space is left on the device; {what}",
            "free some space (`df -h .` shows how much there is), then run the same command again",
        ) from (error.__cause__ if isinstance(error, DiskFull) else error)


def _is_full(error: Exception) -> bool:
    if isinstance(error, DiskFull):
        return True
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, GitFailed):
        told = ("No space left on device", "Out of diskspace", "quota exceeded", NO_ROOM)
        return any(text in error.stderr for text in told)
    import sqlite3

    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)
