"""The folder that files arrive in: what in it is whole, in which order, and where it goes.

Owns the judgement that nobody writes to a file any more, and the moves to `done/DAY/` and
`failed/`, which never overwrite. Refuses to look into a file: what may be a batch is the engine's.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from mvc.daemon.status import plain
from mvc.errors import MvcError, StoreError, UsageError
from mvc.settings import WatchSettings
from mvc.store.files import atomic_write, sync_folders
from mvc.store.layout import BATCH, LOGS, PRIVATE, STATE, Layout

DONE, FAILED, WHY = "done", "failed", ".why.txt"
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")
_MOVED_S = 1.0
"""Rest enough for a file that was renamed into place, or that is old already."""
_LONGEST_NAME = 255


class Stamp(msgspec.Struct, frozen=True):
    """What changes when a file, or anything in a folder, is written to; nanoseconds.

    `completed` is when it became what it is: its last byte, or the rename that put it here. It
    orders the queue, because it is the same after a restart.
    """

    parts: tuple[tuple[str, int, int, int], ...]
    written: int
    completed: int
    moved: bool


class Inbox:
    """The folder that `mvc watch` takes files from.

    Args:
        folder: the folder; it must be there.
        settings: [watch] of mvc.toml; may be set anew at any time.
        zone: of the days in `done/`.
        root: the model repo, for the commands in a text that says why.

    Raises:
        StoreError: there is no such folder.
    """

    def __init__(
        self, folder: Path, settings: WatchSettings, zone: ZoneInfo, root: Path | None = None
    ) -> None:
        self.folder, self.settings, self.zone = folder.absolute(), settings, zone
        self._mvc = f"mvc -C {shlex.quote(str(root))}" if root else "mvc"
        self._seen: dict[Path, tuple[Stamp, float]] = {}
        self._changes: Generator[Any, None, None] | None = None
        self._watched: tuple[int, int, float] | None = None
        self._names()

    def ready(self) -> list[Path]:
        """The files and folders that are whole, in the order in which they are taken.

        In the order of completion one that may still change holds up those completed after it,
        for as long as it must rest: so the order is not a matter of when one looks.

        Raises:
            StoreError: the folder is not there, or cannot be read.
        """
        waiting = self._look()
        if self.settings.order == "name":
            return [path for path in sorted(waiting) if self._rests(path)]
        ready = []
        for path in sorted(waiting, key=lambda path: (waiting[path].completed, path.name)):
            if not self._rests(path):
                break
            ready.append(path)
        return ready

    def empty(self) -> bool:
        """Whether nothing is there to be trained, whole or not.

        Raises:
            StoreError: as `ready`.
        """
        return not self._look()

    @property
    def num_waiting(self) -> int:
        """How many files and folders were there at the last look, whole or not."""
        return len(self._seen)

    def stamp(self, path: Path) -> Stamp | None:
        """What would change if somebody wrote to `path`; None where nothing can be taken yet.

        That is a folder without files or with one that is half a download, and what is gone.
        """
        try:
            own = path.stat()
            found = _below(path)
        except PermissionError:
            own = path.lstat()
            found = [(".", own)]  # to be refused in its turn, with the reason
        except OSError:
            return None
        if path.is_dir() and (not found or any(_unfinished(name) for name, _ in found)):
            return None
        every = [("", own), *found]
        written = max(stat.st_mtime_ns for _, stat in every)
        return Stamp(
            parts=tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in sorted(every)),
            written=written,
            completed=max(stat.st_ctime_ns for _, stat in every),
            # A rename changes nothing but the time of change; a write changes both times.
            moved=own.st_ctime_ns > written,
        )

    def takes(self, path: Path) -> bool:
        """Whether what has that path will be trained, once it is whole."""
        name = path.name
        own = name in (DONE, FAILED) or name[0] in ".~" or _unfinished(name)
        return path.parent == self.folder and not own

    def _look(self) -> dict[Path, Stamp]:
        """Everything that is there to be taken; remembers since when it has not changed."""
        now = time.monotonic()
        seen: dict[Path, tuple[Stamp, float]] = {}
        for name in self._names():
            path = self.folder / name
            if not self.takes(path):
                continue
            if (stamp := self.stamp(path)) is not None:
                before = self._seen.get(path)
                same = before is not None and before[0] == stamp
                seen[path] = before if before is not None and same else (stamp, now)
        self._seen = seen
        return {path: stamp for path, (stamp, _) in seen.items()}

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()]
        except OSError as error:
            raise StoreError(
                f"the inbox {self.folder} cannot be read ({error.strerror or error})",
                f"make it with `mkdir {shlex.quote(str(self.folder))}`, or mount it",
            ) from error

    def _rests(self, path: Path) -> bool:
        """Whether nobody writes to it any more.

        Ages by its own times alone would be wrong where a file server's clock is: so it must have
        rested under our eyes as well, if not as long.
        """
        stamp, since = self._seen[path]
        rested, settle = time.monotonic() - since, self.settings.settle_seconds
        aged = time.time() - stamp.written / 1e9 >= settle
        return rested >= settle or ((stamp.moved or aged) and rested >= _MOVED_S)

    def wait(self, seconds: float) -> None:
        """Until something happens in the folder, but no longer than `seconds`."""
        from watchfiles import watch

        try:
            stat = self.folder.stat()
            key = (stat.st_dev, stat.st_ino, seconds)
            if self._changes is None or key != self._watched:
                # It was unmounted or made anew: what was watched is another folder.
                self.close()
                self._watched = key
                self._changes = watch(
                    self.folder,
                    recursive=False,
                    debounce=1000,
                    step=100,
                    rust_timeout=int(seconds * 1000),
                    yield_on_timeout=True,
                )
            next(self._changes)
        except (OSError, RuntimeError, StopIteration):
            # Not there, or the system has no watch left to give: looking again will do.
            self.close()
            time.sleep(seconds)

    def close(self) -> None:
        """Stop watching; `wait` begins again."""
        if self._changes is not None:
            self._changes.close()
        self._changes = self._watched = None

    def done(self, path: Path, stamp: Stamp | None = None) -> Path | None:
        """Move what is in the line to `done/DAY/`; None where it was moved before.

        Args:
            path: the file or folder.
            stamp: what was trained; another thing of that name, which nobody has read yet, stays.

        Raises:
            StoreError: it cannot be moved.
        """
        day = datetime.now(self.zone).date().isoformat()
        if not self._is_still(path, stamp):
            return None
        return self._move(path, self.folder / DONE / day)

    def failed(
        self, path: Path, error: Exception, words: str = "", stamp: Stamp | None = None
    ) -> Path | None:
        """Move what cannot be a batch to `failed/`, beside a text that says why.

        Args:
            path: the file or folder.
            error: why.
            words: what else somebody who mends it should know.
            stamp: what failed, as for `done`.

        Returns:
            The text; None where there was nothing to move.

        Raises:
            StoreError: it cannot be moved, or there is no room for the text.
        """
        if not os.path.lexists(path) or not self._is_still(path, stamp):
            return None
        target = _free(self.folder / FAILED / path.name)
        why = target.with_name(_cut(target.name, WHY) + WHY)
        # Before the move: killed between them, the file fails again and the text is written anew.
        with _moving(path):
            atomic_write(why, self._why(target, error, words).encode())
        self._move(path, target.parent)
        return why

    def _is_still(self, path: Path, stamp: Stamp | None) -> bool:
        found = None if stamp is None else self.stamp(path)
        return stamp is None or (found is not None and found.parts == stamp.parts)

    def _why(self, target: Path, error: Exception, words: str) -> str:
        lines = [datetime.now(self.zone).isoformat(" ", "seconds"), f"{target.name}: {error}"]
        cause = error.__cause__
        while cause is not None:
            lines.append(f"Caused by: {type(cause).__name__}: {cause}")
            cause = cause.__cause__
        lines += [error.hint] if isinstance(error, MvcError) else []
        lines += [words] if words else []
        there, again = shlex.quote(str(target)), shlex.quote(f"{self.folder}/")
        lines += [
            "",
            f"What mvc makes of it, without training it: {self._mvc} train --dry-run {there}",
            f"To have it trained: mv {there} {again}",
        ]
        return "".join(f"{plain(line)}\n" for text in lines for line in text.split("\n"))

    def _move(self, path: Path, folder: Path) -> Path | None:
        if not os.path.lexists(path):
            return None
        with _moving(path):
            folder.mkdir(parents=True, exist_ok=True)
            target = _free(folder / path.name)
            path.rename(target)
            sync_folders([folder.parent, folder, path.parent])
        return target


def check_place(at: Layout, folder: Path) -> None:
    """Refuse an inbox among the repo's own files.

    Raises:
        UsageError: it is the repo itself, or where mvc, git or DVC keep theirs.
    """
    root, inbox = at.root.resolve(), folder.resolve()
    own = [root / name for name in (STATE, BATCH, PRIVATE, LOGS, ".git", ".dvc")]
    if inbox == root or any(inbox.is_relative_to(each) for each in own):
        raise UsageError(
            f"{folder} cannot be an inbox: mvc keeps the repo's own files there",
            f"make one beside the repo: `mkdir {shlex.quote(str(root.parent / 'inbox'))}`",
        )


def _unfinished(name: str) -> bool:
    return name.lower().endswith(_UNFINISHED)


def _below(path: Path, prefix: str = "") -> list[tuple[str, os.stat_result]]:
    """Everything in a folder but hidden files, with its relative name; nothing for a file."""
    if not path.is_dir():
        return []
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                name = f"{prefix}{entry.name}"
                found.append((name, entry.stat(follow_symlinks=False)))
                if entry.is_dir(follow_symlinks=False):
                    found += _below(Path(entry.path), f"{name}/")
    return found


def _free(path: Path) -> Path:
    """`path`, or with a number before its suffix where that name is taken."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        end = f".{number}{path.suffix}"
        found = path.with_name(_cut(path.stem, end + WHY) + end)
    return found


def _cut(name: str, end: str) -> str:
    """As much of `name` as leaves room for `end` in a file's name."""
    while len(os.fsencode(name + end)) > _LONGEST_NAME:
        name = name[:-1]
    return name


@contextmanager
def _moving(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be moved out of the inbox ({error.strerror or error})",
            f"{DONE}/ and {FAILED}/ must be folders in it, on its own disk, that you may write to",
        ) from error
