"""Lock files that a git left behind when it was killed together with its mvc.

git never breaks a lock: whoever finds one is told that it exists, for ever. mvc leaves a mark
while git writes refs or configuration, and whoever comes after a mark whose process is dead
removes the locks that this one git can have left, and no others: those of the files that it
writes, made since the mark was, and standing still for a while.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mvc.store import git
from mvc.store.layout import Layout

_PATIENCE_S = 2.0
# Never index.lock nor HEAD.lock here: those are of a user's own git, or of a promotion's.
_HERE = (
    *("refs/remotes/**/*.lock", "refs/mvc/**/*.lock", "refs/tags/**/*.lock"),
    *("packed-refs.lock", "config.lock", "shallow.lock", "FETCH_HEAD.lock"),
)


@contextmanager
def marked(layout: Layout, there: Iterable[Path] = ()) -> Iterator[None]:
    """Leaves a mark while git writes; after a kill the next one removes what that git left locked.

    Args:
        layout: the repo.
        there: files outside of it that git will lock too (`pushed`).
    """
    for mark in layout.private.glob("git-*"):
        if _is_left(mark):
            break_left(layout, mark)
            mark.unlink(missing_ok=True)
    layout.private.mkdir(exist_ok=True)
    mark = layout.private / f"git-{os.getpid()}"
    mark.write_text("".join(f"{path}\n" for path in there))
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def pushed(layout: Layout, remote: str, refs: Iterable[str]) -> list[Path]:
    """The files that a push to a folder locks there; none where the remote is no folder here."""
    url = git.try_read(layout.root, "remote", "get-url", "--push", remote) or ""
    path = Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
    hub = next((at for at in (path / ".git", path) if (at / "HEAD").is_file()), None)
    return [] if hub is None else [hub.resolve() / name for name in ("HEAD", *refs)]


def break_left(layout: Layout, mark: Path | None = None) -> None:
    """Remove the locks of the git that `mark` is of; without one, those of any git in a clone
    that nobody has seen yet."""
    folder = layout.root / git.read(layout.root, "rev-parse", "--git-common-dir")
    found = [lock for pattern in _HERE for lock in folder.glob(pattern)]
    since = 0.0
    if mark is not None:
        since = mark.stat().st_mtime - 0.01  # files are dated by the kernel's coarser clock
        found += [Path(f"{line}.lock") for line in git.lines(mark.read_text())]
    remove(found, since)


def remove(locks: Iterable[Path], since: float = 0.0) -> None:
    """Remove those of these files that stand still; one that a living git holds goes by itself.

    Args:
        locks: lock files, there or not.
        since: one that is older (seconds since 1970) is somebody else's, and stays.
    """
    ours = {lock: seen for lock in locks if (seen := _seen(lock)) and seen[1] >= since}
    deadline = time.monotonic() + _PATIENCE_S
    while ours := {lock: seen for lock, seen in ours.items() if _seen(lock) == seen}:
        if time.monotonic() > deadline:
            for lock in ours:
                lock.unlink(missing_ok=True)
            return
        time.sleep(0.05)


def _seen(lock: Path) -> tuple[int, float] | None:
    """What tells a lock from the next one of its name."""
    try:
        found = lock.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_mtime


def _is_left(mark: Path) -> bool:
    """Whether the process that made a mark is gone, or is this one, which begins anew."""
    import psutil  # 15 ms, for who finds one

    pid = int(mark.name.removeprefix("git-"))
    try:
        # Another process may have its number by now.
        return pid == os.getpid() or psutil.Process(pid).create_time() > mark.stat().st_mtime + 1
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False
