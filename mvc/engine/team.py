"""Training together with the other ranks: rank 0 gives the batches out, the others follow.

Owns what passes between the ranks outside the steps. A batch and an error go through the store
that the ranks met at, not through a collective: a rank that is stuck in one would never hear.
Whoever does not see rank 0's folder (another machine) gets a copy of what lies in it, so that
another machine needs mvc and the base, and no repo.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mvc import errors
from mvc.engine import checkpoint, ranks, train
from mvc.engine.heartbeat import Heartbeat, Lost, say
from mvc.engine.session import Session
from mvc.errors import EngineError, Interrupted, MvcError, RepoError
from mvc.types import SILENT, Progress, ShouldStop, TrainResult, never_stop

_HERE = "here"
_CHUNK_BYTES = 1 << 24
_POLL_S = 0.05
_PATIENCE_S = 5.0


class Told(msgspec.Struct, frozen=True):
    """An error as it passes from one process to another."""

    rank: int
    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: MvcError) -> Told:
        """This rank's `error`, or the other rank's that it was told."""
        known = getattr(error, "told", None)
        if isinstance(known, Told):
            return known
        return cls(ranks.rank(), type(error).__name__, error.message, error.hint)

    def error(self, here: int) -> MvcError:
        """The error again, to be shown by rank `here` (-1: by none); another says whose it was."""
        made: MvcError = getattr(errors, self.kind, EngineError)(self.message, self.hint)
        made.told = self  # type: ignore[attr-defined]
        if self.rank != here and not isinstance(made, Interrupted):
            made.message = f"process {self.rank}: {self.message}"
        return made


class _Given(msgspec.Struct, frozen=True):
    """What rank 0 gives out: a batch, with the token that lies in its folder; or the end."""

    job: train.Job | None = None
    token: str = ""
    error: Told | None = None


class Lead:
    """Rank 0's side."""

    def __init__(self, session: Session, should_stop: ShouldStop, lost: Lost) -> None:
        ranks.join(should_stop)
        self._session, self._store, self._number = session, _store(should_stop), 0
        self._rest = _heartbeat(self._store, lost)

    def run(self, job: train.Job, progress: Progress, should_stop: ShouldStop) -> TrainResult:
        """`train.run`, together with the others.

        Raises:
            MvcError: what any rank raised; `EngineError` when one of them died.
        """
        token = secrets.token_hex(16)
        (Path(job.run) / _HERE).write_text(token)
        self._give(_Given(job, token))
        return _together(self._store, job, token, self._session, progress, should_stop)

    def end(self, error: MvcError | None) -> None:
        """Let the others go, and wait a little until they know: the store may end with us."""
        self._rest()
        try:
            self._give(_Given(error=Told.of(error) if error else None))
            until = time.monotonic() + _PATIENCE_S
            while self._store.add("ended", 0) < ranks.world_size() - 1:
                if time.monotonic() > until:
                    return
                time.sleep(_POLL_S)
        except RuntimeError:
            return  # the store is gone: whoever held it has ended

    def _give(self, given: _Given) -> None:
        self._store.set(f"given/{self._number}", msgspec.json.encode(given))
        self._number += 1


@contextmanager
def lead(
    session: Session, should_stop: ShouldStop = never_stop, lost: Lost = say
) -> Iterator[Lead]:
    """Rank 0's side for a while; the others end with it, and with its error.

    `should_stop` is asked while they are waited for; `lost` hears of one that is gone.
    """
    leading = Lead(session, should_stop, lost)
    try:
        yield leading
    except BaseException as error:
        leading.end(as_told(error))
        raise
    leading.end(None)


def as_told(error: BaseException) -> MvcError | None:
    """What the other ranks hear of an error of rank 0; None where it is no error to them."""
    if isinstance(error, GeneratorExit):  # whoever iterated over the results has enough of them
        return None
    if isinstance(error, MvcError):
        return error
    return EngineError(f"ended with {error!r}", "look at what process 0 said")


def follow(
    root: Path,
    should_stop: ShouldStop,
    *,
    own: Path | None = None,
    may_leave: bool = True,
    lost: Lost = say,
) -> None:
    """The side of every other rank: train what rank 0 gives out, until it says that it is over.

    Args:
        root: where a base is looked for that is named by a relative path.
        should_stop: asked after every step, and while nothing is to be trained.
        own: the model repo that this rank stands in, which may only be rank 0's.
        may_leave: whether it is heeded while nothing is to be trained.
        lost: hears of another rank that is gone.

    Raises:
        MvcError: what any rank raised; `EngineError` when one of them died.
    """
    ranks.join(should_stop)
    store, number, session = _store(should_stop), 0, Session(root)
    rest = _heartbeat(store, lost)
    try:
        while given := _take(store, number, should_stop if may_leave else never_stop):
            session.allowed = given.job.allowed if given.job else ""
            if given.job is None:
                store.add("ended", 1)
                if given.error:
                    raise given.error.error(ranks.rank())
                return
            if own:
                _check_repo(store, own, Path(given.job.root))
            _together(store, given.job, given.token, session, SILENT, should_stop)
            session.forget(given.job.data_md5)
            number += 1
    finally:
        rest()


def _check_repo(store: Any, own: Path, root: Path) -> None:
    """Refuse to train along where a line of this rank's own was meant.

    Another machine may have a clone, at another path than rank 0's.
    """
    if root.is_dir() and not own.samefile(root):
        apart = RepoError(
            f"{own} is another model repo than process 0's, {root}; what a launcher starts "
            "together trains one batch together",
            "for a training in each of them, start them one by one; srun's tasks take "
            "`--node-rank 0`",
        )
        _first(store, Told.of(apart))
        raise apart


def _take(store: Any, number: int, should_stop: ShouldStop) -> _Given:
    key = f"given/{number}"
    try:
        while not store.check([key]):
            if should_stop():
                left = Interrupted(
                    f"process {ranks.rank()} was stopped between two batches",
                    "run the same `mvc train` again",
                )
                _first(store, Told.of(left))
                raise left
            time.sleep(_POLL_S)
        return msgspec.json.decode(store.get(key), type=_Given)
    except RuntimeError as error:
        raise EngineError(
            "process 0, which owns the repo, is gone", "look at what it said on its machine"
        ) from error


def _store(should_stop: ShouldStop) -> Any:
    """What is given out lies here. All are waited for, also where they had joined long ago: one
    that still does something else would be missed by the heartbeat, which ends the process."""
    from torch.distributed.distributed_c10d import _get_default_store

    store = ranks.fresh(_get_default_store(), ranks.rank())
    ranks.gathered(store, ranks.world_size(), should_stop)
    return store


def _heartbeat(store: Any, lost: Lost) -> Callable[[], None]:
    """Begin to beat and to listen; returns what ends it."""
    if ranks.MEETING in os.environ:
        return lambda: None  # on one machine torchrun sees whoever dies, and the file would grow
    return Heartbeat(store, lost).stop


def _together(
    store: Any,
    job: train.Job,
    token: str,
    session: Session,
    progress: Progress,
    should_stop: ShouldStop,
) -> TrainResult:
    try:
        with _at_hand(job, token, progress) as mine:
            result = train.run(mine, session, progress, should_stop)
            ranks.barrier()  # nobody commits what another could not finish
            return result
    except Exception as error:
        known = isinstance(error, MvcError)
        ours = error if known else EngineError(f"training broke off: {error}", train.GO_ON)
        first = _first(store, Told.of(ours))  # type: ignore[arg-type]
        if known and first.rank == ranks.rank():
            raise
        raise first.error(ranks.rank()) from error


def _first(store: Any, told: Told) -> Told:
    """The first error that any rank has told: what comes after it is a consequence."""
    try:
        found = store.compare_set("error", "", msgspec.json.encode(told).decode())
        return msgspec.json.decode(found, type=Told)
    except RuntimeError:  # the store is gone
        return told


@contextmanager
def _at_hand(job: train.Job, token: str, progress: Progress) -> Iterator[train.Job]:
    """The job with folders that this rank can read: rank 0's own, or copies."""
    import torch.distributed as dist

    try:
        here = (Path(job.run) / _HERE).read_text() == token
    except OSError:
        here = False
    lacking = [rank for rank, sees in enumerate(ranks.gather(here)) if not sees]
    if not lacking:
        yield job
        return
    group = dist.new_group([0, *lacking], backend="gloo")
    if here:
        if ranks.rank() == 0:
            progress.stage(f"Sending the state to {len(lacking)} processes elsewhere")
            _send(_files(job), group)
        dist.destroy_process_group(group)  # of those who are not in it, nothing
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="mvc-") as name:
        folder = Path(name)
        _receive(folder, group)
        dist.destroy_process_group(group)
        gate = job.gate
        if gate:
            held_out = str(folder / "gate" / Path(gate.data).name)
            gate = replace(gate, data=held_out)
        yield replace(
            job,
            data=str(folder / "data" / Path(job.data).name),
            state=str(folder / "state"),
            run=str(folder / "run"),
            gate=gate,
        )


def _files(job: train.Job) -> list[tuple[str, Path]]:
    """What a rank needs of rank 0's folders, by its path in a copy."""
    data = Path(job.data)
    parts = [("state", Path(job.state)), (f"data/{data.name}", data)]
    if job.gate:
        parts.append((f"gate/{Path(job.gate.data).name}", Path(job.gate.data)))
    if found := checkpoint.newest(Path(job.run) / "checkpoints", job.key):
        parts.append((f"run/checkpoints/{found.folder.name}", found.folder))
    files = []
    for name, part in parts:
        inside = sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part]
        files += [(str(Path(name) / path.relative_to(part)), path) for path in inside]
    return files


def _send(files: list[tuple[str, Path]], group: Any) -> None:
    import torch
    import torch.distributed as dist

    listing = []
    for name, path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        listing.append((name, path.stat().st_size, digest))
    ranks.send(listing, group)
    buffer = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
    for _, path in files:
        with path.open("rb") as file:
            while count := file.readinto(buffer.numpy().data):
                dist.broadcast(buffer[:count], src=0, group=group)


def _receive(folder: Path, group: Any) -> None:
    import torch
    import torch.distributed as dist

    listing = ranks.receive(list[tuple[str, int, str]], group)
    buffer = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
    for name, size_bytes, sha256 in listing:
        path, digest = folder / name, hashlib.sha256()
        if ".." in path.parts or not path.is_relative_to(folder):
            raise EngineError(f"process 0 sent {name}", "look at what runs at that endpoint")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size_bytes, _CHUNK_BYTES):
                part = buffer[: min(_CHUNK_BYTES, size_bytes - start)]
                dist.broadcast(part, src=0, group=group)
                digest.update(part.numpy().data)
                file.write(part.numpy().data)
        if digest.hexdigest() != sha256:
            raise EngineError(
                f"{name} did not arrive as it was sent", "run the same `mvc train` again"
            )
