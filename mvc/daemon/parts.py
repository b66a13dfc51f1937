"""Files made into batches of a fitting size: small ones joined, large ones split.

Owns `.mvc/watch/parts/`: a folder for each plan, with the batches that are not in the line yet.
What is left to do is what lies there, so a kill forgets nothing. Files are counted and copied in a
thread of its own, never in the one that trains. Where mvc.toml asks for neither, a file is a
batch and nothing is copied.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from mvc.daemon.inbox import Inbox, Stamp
from mvc.errors import DataChanged, DataError, MvcError
from mvc.settings import Settings
from mvc.store.files import TEMPORARY, atomic_write, no_space, sync_file, sync_folders, temporary
from mvc.store.layout import Layout
from mvc.types import BatchPlan, DataFile

_PLAN, _KNOWN = "plan.json", "joined.jsonl"
_WAIT_S = 1.0
_MOST_SIZES = 4096


class Plan(msgspec.Struct, frozen=True):
    """What becomes of some files: md5 by name in the inbox, and md5 by name of the batches."""

    sources: dict[str, str]
    batches: dict[str, str]


class _Size(msgspec.Struct, frozen=True):
    """A file as a batch: its steps, also as a fraction, and what may be joined with it."""

    num_steps: int
    steps: float
    kind: object


class Parts:
    """The batches of an inbox.

    Args:
        at: the model repo.
        inbox: where the files are.
        plan: what a file would be as a batch; DataError where it cannot be one.
        ends: no more files are waited for (`mvc watch --once`).
        known: whether a content is in the line; asked in another thread.
    """

    def __init__(
        self,
        at: Layout,
        inbox: Inbox,
        plan: Callable[[Path], BatchPlan],
        ends: bool = False,
        known: Callable[[str], bool] = lambda md5: False,
    ) -> None:
        self.folder, self.inbox = at.watch.resolve() / "parts", inbox
        self._plan, self._ends, self._known = plan, ends, known
        self._guard = threading.RLock()
        self._sizes: dict[object, _Size] = {}
        self._stamps: dict[Path, Stamp] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        for half in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(half, ignore_errors=True)
        self._joined: dict[str, list[str]] = {}
        with suppress(OSError, ValueError):
            for line in (at.watch / _KNOWN).read_text().splitlines():
                self._joined |= json.loads(line)

    def ready(self, settings: Settings) -> list[Path]:
        """The batches to train, the next one first; those that are being made are not among them.

        Raises:
            StoreError: the inbox cannot be read.
            MvcError: a file could not be counted or copied, and that was not its fault.
        """
        files = self.inbox.ready()
        plans = self._plans()
        if not (settings.watch.min_steps or settings.watch.max_steps or plans):
            return files
        place = {path.name: i for i, path in enumerate(files)}
        found = [
            (min(place.get(source, -1) for source in plan.sources), folder / name)
            for folder, plan in plans.items()
            for name in plan.batches
            if (folder / name).exists()
        ]
        planned = {name for plan in plans.values() for name in plan.sources}
        rest = [path for path in files if path.name not in planned]
        last = self._ends and self.inbox.num_waiting == len(files)
        whole, first, work = self._decide(rest, settings, last)
        found += [(place[path.name], path) for path in whole]
        if first is not None:
            found = [each for each in found if each[0] < place[first.name]]
        ready = [path for _, path in sorted(found, key=lambda each: each[0])]
        if work is not None:
            self._start(work)
            if not ready and self._thread is not None:
                self._thread.join(_WAIT_S)
        return ready

    def _decide(
        self, files: Sequence[Path], settings: Settings, last: bool
    ) -> tuple[list[Path], Path | None, Callable[[], None] | None]:
        """Files that are batches as they are; the first that is not, and what to do about it."""
        least, most = settings.watch.min_steps, settings.watch.max_steps
        whole: list[Path] = []
        group: list[Path] = []
        total, kind = 0.0, None
        for path in files:
            size = self._sizes.get(self._key(path, settings))
            if size is None:
                return whole, (group or [path])[0], partial(self._look, path, settings)
            small = 0 < size.steps < least and path.is_file()
            fits = small and size.kind == kind and (not most or total + size.steps <= most)
            if group and not fits:
                if len(group) > 1:
                    return whole, group[0], partial(self._join, group)
                whole, group, total = whole + group, [], 0.0
            if small:
                group, total, kind = [*group, path], total + size.steps, size.kind
                if total >= least:
                    return whole, group[0], partial(self._join, group)
            elif most and size.num_steps > most and path.is_file():
                return whole, path, partial(self._split, path, most)
            else:
                whole.append(path)
        if not group:
            return whole, None, None
        if not last and self._young(group[0], settings.watch.join_seconds):
            return whole, group[0], None
        if len(group) > 1:
            return whole, group[0], partial(self._join, group)
        return whole + group, None, None

    def _young(self, path: Path, seconds: float) -> bool:
        stamp = self.inbox.stamp(path)
        return stamp is not None and time.time() - stamp.completed / 1e9 < seconds

    def _key(self, path: Path, settings: Settings) -> tuple[Path, Stamp | None, bytes]:
        return path, self.inbox.stamp(path), msgspec.json.encode(settings.train)

    def _start(self, work: Callable[[], None]) -> None:
        """Do it in the background, one thing at a time; what went wrong is raised here."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

        def run() -> None:
            try:
                with no_space("the inbox is as it was"):
                    work()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="mvc-parts", daemon=True)
        self._thread.start()

    # --- in the background ----------------------------------------------------------------------

    def _look(self, path: Path, settings: Settings) -> None:
        """Count a file's steps; one that was trained already, alone or in parts, is done with."""
        from mvc.engine import files

        key, how = self._key(path, settings), settings.train
        try:
            md5 = files.identify(path).md5
            if self._known(md5) or (
                md5 in self._joined and all(map(self._known, self._joined[md5]))
            ):
                self.inbox.done(path, key[1])
                return
            plan = self._plan(path)
            records = files.read(path)
        except Exception as error:
            if isinstance(error, MvcError | OSError) and not isinstance(error, DataError):
                raise  # not the file's fault: tried again
            size = _Size(0, 0.0, None)  # as it is: who trains it will say why it cannot be
        else:
            rows = plan.num_tokens / how.max_length if how.packing else plan.num_sequences
            steps = rows * how.passes / (how.micro_batch_size * how.gradient_accumulation_steps)
            kind = records.kind, type(records.rows[0].get("prompt"))
            size = _Size(plan.num_steps, steps, kind)
        if len(self._sizes) >= _MOST_SIZES:
            self._sizes.clear()
        self._sizes[key] = size

    def _join(self, group: Sequence[Path]) -> None:
        """One batch of several files: a folder of them, in their order."""
        name = f"{group[0].stem}-and-{len(group) - 1}-more"

        def fill(folder: Path) -> list[str]:
            (folder / name).mkdir()
            for i, path in enumerate(group, 1):
                # Not linked: that would change when the file was completed, and so the order.
                shutil.copyfile(path, folder / name / f"{i:04}-{path.name}")
            return [name]

        self._keep(group, fill)

    def _split(self, path: Path, most: int) -> None:
        """Several batches of one file: its records in their order, JSON lines."""
        from mvc.engine import files

        def fill(folder: Path) -> list[str]:
            parts = self._pieces(files.read(path).rows, most, folder / "piece.jsonl")
            names = [
                f"{path.stem}.part-{i}-of-{len(parts)}.jsonl" for i in range(1, len(parts) + 1)
            ]
            for name, rows in zip(names, parts, strict=True):
                _write(folder / name, rows)
            return names

        self._keep([path], fill)

    def _pieces(self, rows: list[Any], most: int, file: Path) -> list[list[Any]]:
        """Pieces of no more than `most` steps, if their records allow it, of about equal length."""
        _write(file, rows)
        count = math.ceil(self._plan(file).num_steps / most)
        file.unlink()
        if count < 2 or len(rows) < 2:
            return [rows]
        ends = list(accumulate(len(json.dumps(row)) for row in rows))
        share = ends[-1] / count
        pieces: list[list[Any]] = [[] for _ in range(count)]
        for row, end in zip(rows, ends, strict=True):
            pieces[min(int((end - 1) / share), count - 1)].append(row)
        filled = [piece for piece in pieces if piece]
        if len(filled) == 1:  # one record outweighs the others
            filled = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        return [part for piece in filled for part in self._pieces(piece, most, file)]

    def _keep(self, sources: Sequence[Path], fill: Callable[[Path], list[str]]) -> None:
        """Make a plan and keep it: whole, or not at all."""
        from mvc.engine import files

        before = [self.inbox.stamp(path) for path in sources]
        half = temporary(self.folder)
        try:
            half.mkdir(parents=True)
            batches = {name: files.identify(half / name).md5 for name in fill(half)}
            plan = Plan({path.name: files.identify(path).md5 for path in sources}, batches)
            for path in half.rglob("*"):
                sync_file(path)
            atomic_write(half / _PLAN, msgspec.json.encode(plan))
            if before == [self.inbox.stamp(path) for path in sources]:
                numbers = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]
                half.rename(self.folder / f"{max(numbers, default=0) + 1:08}")
                sync_folders([self.folder])
        except DataError:
            return  # it changed under our eyes, or went away: the next look sees it as it is
        finally:
            shutil.rmtree(half, ignore_errors=True)

    # --- plans ----------------------------------------------------------------------------------

    def _plans(self) -> dict[Path, Plan]:
        """The plans with something left to do; the others are brought to their end."""
        found: dict[Path, Plan] = {}
        with self._guard:
            for folder in sorted(self.folder.glob("[0-9]*")):
                plan = self._plan_of(folder / _PLAN)
                here = plan and any((self.inbox.folder / name).exists() for name in plan.sources)
                if plan is None or not here:
                    shutil.rmtree(folder, ignore_errors=True)
                elif any((folder / name).exists() for name in plan.batches):
                    found[folder] = plan
                else:
                    self._finish(folder, plan)
        return found

    def _plan_of(self, path: Path) -> Plan | None:
        if path.parent.parent != self.folder:
            return None
        try:
            return msgspec.json.decode((path.parent / _PLAN).read_bytes(), type=Plan)
        except (OSError, msgspec.DecodeError):
            return None

    def _finish(self, folder: Path, plan: Plan) -> None:
        """All of a plan is in the line: its files are done with."""
        batches = list(plan.batches.values())
        self._joined |= dict.fromkeys(plan.sources.values(), batches)
        known = self.folder.parent / _KNOWN
        with no_space("the batch is in the line"), known.open("a") as file:
            file.write(json.dumps(dict.fromkeys(plan.sources.values(), batches)) + "\n")
        for path in self._sources(plan):
            self.inbox.done(path)
        shutil.rmtree(folder, ignore_errors=True)

    def _sources(self, plan: Plan) -> list[Path]:
        """The files of a plan that still are what it was made of; others have taken a name."""
        from mvc.engine import files

        found = []
        for name, md5 in plan.sources.items():
            with suppress(DataError):  # it is gone
                path = self.inbox.folder / name
                found += [path] if files.identify(path).md5 == md5 else []
        return found

    # --- what became of a batch -----------------------------------------------------------------

    def identify(self, path: Path) -> DataFile:
        """The batch at `path`, by its content.

        Raises:
            DataError: it cannot be read.
            DataChanged: it is gone, or being filled.
        """
        from mvc.engine import files

        # Before it is read: a change meanwhile only has it looked at once more.
        if (stamp := self.inbox.stamp(path)) is None:
            raise DataChanged(f"{path.name} is gone, or is not whole any more", f"`ls {path}`")
        self._stamps[path] = stamp
        return files.identify(path)

    def done(self, path: Path) -> None:
        """A batch is in the line; what it was made of moves when all of it is.

        What has taken the name of a file since it was identified stays, to be trained in its turn.

        Raises:
            StoreError: it cannot be moved.
        """
        with self._guard:
            plan, stamp = self._plan_of(path), self._stamps.pop(path, None)
            if plan is None:
                self.inbox.done(path, stamp)
                return
            if path.exists():
                gone = path.rename(temporary(path.parent))
                shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            if not any((path.parent / name).exists() for name in plan.batches):
                self._finish(path.parent, plan)

    def failed(self, path: Path, error: Exception) -> Path | None:
        """A batch cannot be trained: all that it was made of is set aside, as for `done`.

        Returns:
            The text that says why; None where nothing of it was there any more.

        Raises:
            StoreError: it cannot be moved.
        """
        with self._guard:
            plan, stamp = self._plan_of(path), self._stamps.pop(path, None)
            if plan is None:
                return self.inbox.failed(path, error, stamp=stamp)
            names = list(plan.batches)
            before = names[: names.index(path.name)]
            words = f"It was trained as {path.name}, made of {', '.join(plan.sources)}."
            if before:
                words += f" Trained before it, and kept: {', '.join(before)}."
            why = [self.inbox.failed(each, error, words) for each in self._sources(plan)]
            shutil.rmtree(path.parent, ignore_errors=True)
            return next((each for each in why if each is not None), None)


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
