"""Batches one after the other in one process, each committed while the next one trains.

Owns the warm session, the writer in the background (one batch in flight, parents before children)
and reading the next file ahead. What is committed is, to the bit, what `mvc train` makes of the
same files. Which files, and what becomes of one that fails, is the caller's.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from mvc.errors import Interrupted, LockHeld, MvcError, RepoError, TrainingFailed
from mvc.ops import batch, run
from mvc.ops.ahead import Ahead
from mvc.settings import TrainSettings
from mvc.stopping import at_once
from mvc.store import config, history, user, workspace
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from mvc.types import (
    SILENT,
    BatchResult,
    CurvePoint,
    DataFile,
    Progress,
    ShouldStop,
    never_stop,
)

if TYPE_CHECKING:
    from mvc.engine.batch import Batch
    from mvc.engine.train import Job

_SLICE_S = 1.0
"""How often one who waits for another writer (a push, a gc) looks whether to stop."""
_HOLD_S = 10.0
"""How long a commit waits at most for the first step of the next batch."""
_WORDS: dict[str, Any] = {"again": False, "nproc": 1}
Check = Callable[[tuple[CurvePoint, ...]], None]


class Stream:
    """A line that goes on and on; the caller holds its `Line` lock.

    `culprit` is the file that the last error of `train` or `wait` is about: with one batch in
    flight it may be the one before.

    Args:
        at: the model repo.
        command: the command, for whoever meets its lock.
        progress: hears of phases, steps and notes.
        should_stop: asked after every step, and by whoever waits, in any thread.
        stepped: called after every step, in the thread that trains: the moment to read ahead.
        waiting: called every second or more often while something is waited for, in any thread.
        committed: told each commit, in the writer's thread, before the next one can begin.
        clock: the present, for the commits' times; by default the machine's.
    """

    culprit: DataFile | None = None

    def __init__(
        self,
        at: Layout,
        command: str,
        *,
        progress: Progress = SILENT,
        should_stop: ShouldStop = never_stop,
        stepped: Callable[[], None] = lambda: None,
        waiting: Callable[[], None] = lambda: None,
        committed: Callable[[DataFile, BatchResult], None] = lambda data, result: None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        from mvc.engine.session import Session

        self.at, self.command, self.progress = at, command, progress
        self._should_stop, self._stepped, self._waiting = should_stop, stepped, waiting
        self._committed, self._clock = committed, clock
        self._session = Session(at.root, user.permissions(at.root).remote_code)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mvc-writer")
        self._ahead = Ahead(self._read, self._session.forget)
        self._flying: tuple[DataFile, Future[batch.Line]] | None = None
        self._end: batch.Line | None = None
        self._known: dict[str, str] = {}
        self._is_open = False
        self._stepping = threading.Event()
        self._frozen = False

    def open(self) -> None:
        """Recover what a killed process left, and look where the line stands.

        Raises:
            MvcError: the repo cannot be trained on as it is.
        """
        self._cool()
        self._is_open = False
        self._session.allowed = user.permissions(self.at.root).remote_code
        with self._lock():
            if done := workspace.recover(self.at):
                self.progress.note(done)
            if run.land(self.at):
                self.progress.note("a batch whose commit did not come about is in progress again")
            self._end = batch.line(self.at, self.progress)
            line = history.effective_line(self.at.root)
            self._known = {each.data.md5: each.short for each in line if each.data}
        self._is_open = True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The right to write; whoever has it is waited for, but not by one who shall stop.

        For as long as that process lives: a large fetch takes hours, and a trained batch is worth
        the wait.

        Raises:
            Interrupted: `should_stop` answered yes meanwhile.
        """
        lock = Lock(self.at, self.command, _SLICE_S)
        said = ""
        while True:
            try:
                lock.__enter__()
                break
            except LockHeld as error:
                if self._stops():
                    raise Interrupted(
                        f"stopped while it waited: {error.message}", "start it again"
                    ) from None
                if said != error.message:
                    said = error.message
                    self.progress.note(f"Waiting to write: {said}")
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _stops(self) -> bool:
        """Whether to stop, for one who waits."""
        self._waiting()
        return self._should_stop()

    def known(self, md5: str) -> str | None:
        """The commit of this line's batch with that content, in short; one in flight is waited
        for."""
        if self._flying is not None and self._flying[0].md5 == md5:
            self.drain()
        if not self._is_open:
            self.open()
        return self._known.get(md5)

    def has(self, md5: str) -> bool:
        """Whether the line has that content, as far as it is committed; for other threads."""
        return md5 in self._known

    @property
    def flying(self) -> Path | None:
        """The file whose batch is trained and not committed yet."""
        return None if self._flying is None else self._flying[0].path

    def read_ahead(self, path: Path) -> None:
        """Read, tokenise and pack a file in the background, for the `train` that comes."""
        self._ahead.begin(path)

    def _read(self, path: Path) -> str:
        from mvc.engine import files

        settings, data = config.load(self.at), files.identify(path)
        if data.md5 not in self._known:
            self._session.rows(settings, self.at.state, data.path, data.md5)
            if files.identify(path).md5 != data.md5:
                # Rows of something else under its hash would be trained in its place.
                self._session.forget(data.md5)
        return data.md5

    def train(
        self,
        data: DataFile,
        *,
        check: Check | None = None,
        how: TrainSettings | None = None,
        message: str | None = None,
    ) -> None:
        """Train one batch and hand it to the writer.

        Args:
            data: the file.
            check: looks at the loss curve before anything is kept; raises to refuse the batch.
            how: settings instead of mvc.toml's [train], for this batch alone.
            message: words for the commit.

        Raises:
            TrainingFailed: it did not learn, or `check` refused it; the line is as before it.
            Interrupted: `should_stop` answered yes; the checkpoint is kept.
            MvcError: as `mvc train`, or the commit of the batch before failed: that one is then
                the batch in progress again.
        """
        self.culprit = data
        if how is None:  # a first file too: it may be large, and who waits can stop
            self.read_ahead(data.path)
        self._ahead.take(data.path, self._stops)
        try:
            self._end = self._next_line(how)
            with at_once():
                begun = self._begin(self._end, data, _WORDS | {"message": message})
            trained = self._steps(begun)
            if check is not None:
                check(tuple(trained.curve))
            self.wait()
            self._session.forget(data.md5)
            self._hand_over(begun, trained)
        except BaseException as error:
            self._session.forget(data.md5)
            reason = self._undo(error)
            if reason is not error:
                raise reason from None
            raise

    def _hand_over(self, begun: batch.Begun, trained: Batch) -> None:
        """Give a trained batch, whose parent is committed by now, to the writer."""
        assert self._end is not None
        begun = replace(begun, line=self._end, job=trained.job)
        run.fly(self.at)
        trained.move(self.at.flight)
        steps = begun.line.head.lifetime_step + trained.num_steps
        ahead = replace(
            begun.line.head, commit="", kind="batch", lifetime_step=steps, gate=trained.measured
        )
        self._end = replace(begun.line, head=ahead, adapter_md5="")
        self._stepping.clear()
        self._flying = (begun.data, self._writer.submit(self._write, begun, trained))

    def _next_line(self, how: TrainSettings | None) -> batch.Line:
        """Where a batch goes on: at the state in memory, else at the stored one."""
        if self._flying is not None and self._flying[1].done():
            self.wait()
        settings, text = config.load(self.at), self.at.config.read_bytes()
        wanted = settings if how is None else replace(settings, train=how)
        if self._end is not None and self._session.is_warm(wanted):
            config.check_line(settings, self._end.settings)
            return replace(self._end, settings=wanted, config_text=text)
        self.wait()
        self._cool()
        if not self._is_open:
            self.open()
        with self._lock():
            return replace(batch.line(self.at, self.progress), settings=wanted)

    def _begin(self, line: batch.Line, data: DataFile, words: dict[str, Any]) -> batch.Begun:
        try:
            return batch.begin(self.at, line, data, words)
        except RepoError as error:
            # Nobody is there to choose: what is in progress belongs to other settings or to
            # another commit, and this one begins anew.
            self.progress.note(f"{error.message}: its checkpoint was thrown away")
            return batch.begin(self.at, line, data, words, restart=True)

    def _steps(self, begun: batch.Begun) -> Batch:
        from mvc.engine import train as engine

        return engine.steps(
            begun.job,
            self._session,
            self.progress,
            self._stop,
            warm=self._session.is_warm(begun.line.settings),
            hold=True,
            settle=None if begun.job.parent else lambda wait: self._settle(begun.job, wait),
        )

    def _stop(self) -> bool:
        """Whether to stop; a commit that failed ends the training on top of it."""
        self._stepping.set()
        if not self._frozen:
            self._frozen = True
            # The Trainer collects garbage at its start: 0.3 s over what was imported, else 13 ms.
            gc.collect()
            gc.freeze()
        if self._flying is not None and self._flying[1].done():
            self._flying[1].result()
        self._stepped()
        return self._should_stop()

    def _settle(self, job: Job, wait: bool) -> Job | None:
        """The job with its parent, once that is committed."""
        if not wait and self._flying is not None and not self._flying[1].done():
            return None
        self.wait()
        assert self._end is not None
        head, adapter = self._end.head.commit, self._end.adapter_md5
        settled = replace(job, parent=head, adapter_md5=adapter)
        run.settle(self.at, head, settled.key)
        return settled

    def _write(self, begun: batch.Begun, trained: Batch) -> batch.Line:
        """Write, hash and commit a trained batch; returns the line that ends with it."""
        # Serialising holds Python's lock; the next batch makes its first step before that.
        self._stepping.wait(_HOLD_S)
        if trained.held:
            trained.write_held()
            trained.verify()
        result = trained.result()
        with self._lock():
            begun = replace(begun, line=batch.follow(self.at, begun.line))
            now = self._clock() if self._clock else None
            done = batch.commit(self.at, begun, result, folder=self.at.flight, now=now)
        self._known[begun.data.md5] = done.commit.short
        self._committed(begun.data, done)
        return replace(
            begun.line,
            head=done.commit,
            branch=done.branch,
            adapter_md5=next(f.md5 for f in result.files if f.path == batch.ADAPTER),
            next_batch=(done.commit.batch or 0) + 1,
        )

    def wait(self) -> None:
        """Until what was trained is committed.

        Raises:
            MvcError: its commit failed; the next error of `train` is about it too.
        """
        if self._flying is None:
            return
        self._stepping.set()
        landed = self._flying[1].result()
        self._flying = None
        if self._end is not None:
            landed = replace(landed, settings=self._end.settings, config_text=self._end.config_text)
        self._end = landed

    def _undo(self, error: BaseException) -> BaseException:
        """Back to where the line stood before the batch that failed; returns why it failed."""
        self._stepping.set()
        flying, self._flying = self._flying, None
        reason = None if flying is None else flying[1].exception()
        self._cool(failed=True)
        self._is_open = False  # what is looked at next is looked at anew
        if flying is not None and reason is not None:
            self.culprit, error = flying[0], reason
        with suppress(MvcError), self._lock():
            # The ref may have moved before it failed: then the commit is finished, not undone.
            workspace.recover(self.at)
        if not self.at.journal.exists():
            run.land(self.at)
        if isinstance(error, Interrupted):
            return error
        if isinstance(error, TrainingFailed) or not run.has_checkpoint(self.at):
            run.drop(self.at)
        return error

    def _cool(self, *, failed: bool = False) -> None:
        """Forget the state in memory: the next batch begins from the stored one.

        The Trainer goes with it, and what a batch that failed held of the device's memory, also
        before its first step: what is frozen is never collected.
        """
        self._session.cool()
        self._end = None
        if self._frozen or failed:
            self._frozen = False
            gc.unfreeze()
            gc.collect()
            self._session.free()

    def drain(self) -> None:
        """Commit what is in flight.

        Raises:
            MvcError: its commit failed; it is the batch in progress again.
        """
        try:
            self.wait()
        except BaseException as error:
            self._undo(error)
            raise

    def close(self) -> None:
        """`drain`, and end the writer; a file that is read ahead is not waited for."""
        try:
            self.drain()
        finally:
            self._writer.shutdown()
