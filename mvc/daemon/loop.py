"""`mvc watch`: files in, commits out, day and night.

Owns the order of the daemon's work: which file is next, what becomes of it, when to wait, pause
and stop. Training and committing are `ops.stream`'s, the queue is `inbox`'s, judgement is
`guards`', snapshots are `calendar`'s; what is told goes through `DaemonProgress`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from mvc.daemon import control, guards
from mvc.daemon.calendar import Calendar
from mvc.daemon.inbox import Inbox, check_place
from mvc.daemon.logs import DaemonProgress
from mvc.daemon.parts import Parts
from mvc.daemon.suspects import Suspects
from mvc.errors import DataChanged, DataError, DiskFull, EngineError, LockHeld, MvcError
from mvc.ops import log, train
from mvc.ops import run as runs
from mvc.ops.stream import Stream
from mvc.settings import Settings, TrainSettings
from mvc.stopping import at_once
from mvc.store import config
from mvc.store.layout import Layout
from mvc.store.lock import Line
from mvc.types import BatchResult, CurvePoint, DataFile, Progress, ShouldStop, never_stop
from mvc.watching import State, WatchStatus

_LOOK_S = 1.0
"""Seconds between two looks at a request to pause, to stop, or at a changed mvc.toml."""
_LOOKS = 100
"""While a batch trains, looking at the inbox costs no more than one part in so many."""
_RETRY_S = (5.0, 15.0, 60.0, 300.0)
"""Waits before trying again what somebody must mend; the last one repeats."""
_RECENT = 10
"""Batches whose last losses tell what is usual."""


def run(
    at: Layout,
    inbox: Path,
    *,
    once: bool = False,
    progress: Progress | None = None,
    metrics_port: int | None = None,
    should_stop: ShouldStop = never_stop,
    wake: threading.Event | None = None,
    on_status: Callable[[WatchStatus], None] | None = None,
) -> None:
    """Train whatever arrives in `inbox`, until told to stop.

    Args:
        at: the model repo.
        inbox: the folder that files arrive in; `done/` and `failed/` are made in it.
        once: end when the inbox is empty.
        progress: hears what the log hears.
        metrics_port: serve Prometheus' figures on this port of the loopback.
        should_stop: asked after every step and every second; the checkpoint is kept.
        wake: set by SIGHUP: what was waited for is tried again at once.
        on_status: told the status at every change.

    Raises:
        LockHeld: another daemon, or another command that trains, holds this repo.
        MvcError: the repo cannot be trained on; with `once` also what a daemon would wait for.
    """
    inbox = inbox.resolve()
    with ExitStack() as stack:
        told = stack.enter_context(
            DaemonProgress(at, inbox, progress, metrics_port=metrics_port, on_status=on_status)
        )
        daemon = Daemon(at, inbox, told, once, should_stop, wake or threading.Event())
        stack.callback(daemon.close)
        stack.enter_context(Calendar(at, told))
        daemon.work()


class Daemon:
    """One daemon's work; it holds the line but while it is paused."""

    def __init__(
        self,
        at: Layout,
        inbox: Path,
        told: DaemonProgress,
        once: bool,
        should_stop: ShouldStop,
        wake: threading.Event,
    ) -> None:
        self.at, self.told, self.once = at, told, once
        self._should_stop, self._wake = should_stop, wake
        self._line: Line | None = None
        check_place(at, inbox)
        settings = config.load(at)
        guards.check_processes(settings.launch)
        self.inbox = Inbox(inbox, settings.watch, config.zone(settings), at.root)
        self.parts = Parts(
            at,
            self.inbox,
            lambda path: train.dry_run(at, [path])[0],
            once,
            lambda md5: self.stream.has(md5),
        )
        self._command = f"mvc watch {inbox}"
        self.stream = Stream(
            at,
            self._command,
            progress=told,
            should_stop=should_stop,
            stepped=self._look_ahead,
            waiting=told.beat,
            committed=self._committed,
        )
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._suspects = Suspects(at)
        self._failures = 0
        self._rested = False
        self._look_at = 0.0
        self._then: list[Path] = []

    def close(self) -> None:
        """Commit what is in flight, and let go of the line."""
        self.told.state("stopping")
        try:
            with suppress(MvcError):  # it is in progress again, and told by `work`
                self.stream.close()
        finally:
            self.inbox.close()
            self._let_go()

    def work(self) -> None:
        """Until stopped, or with `once` until the inbox is empty."""
        if not control.wanted(self.at):
            self._take()
        while not self._should_stop():
            try:
                if control.wanted(self.at):
                    self._pause()
                elif self._line is None:
                    self._take()
                elif not self._one():
                    return
            except Exception as error:
                self._trouble(self.stream.culprit, error)

    def _take(self) -> None:
        """Take the line, and look where it stands.

        Raises:
            LockHeld: another process trains or moves HEAD.
        """
        line = Line(self.at, self._command)
        line.__enter__()
        try:
            self.stream.open()
        except BaseException:
            line.__exit__(None, None, None)
            raise
        self._line = line
        past = [each.loss.last for each in log.log(self.at, limit=4 * _RECENT) if each.loss]
        self._recent.clear()
        self._recent.extend(reversed(past[:_RECENT]))

    def _let_go(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.__exit__(None, None, None)

    def _one(self) -> bool:
        """Do the next thing there is to do; False when all is done."""
        self.stream.culprit = None
        settings = config.load(self.at)
        guards.check_processes(settings.launch)
        self.inbox.settings = settings.watch
        if why := guards.room(self.at.root, settings.watch.min_free_gb):
            if self.once:
                raise DiskFull(why, "free some space (`df -h .`), or lower watch.min_free_gb")
            self._wait(why, "waiting for disk")
            return True
        path = self._next(settings)
        if path is None:
            self.stream.drain()
            if self.once and self.inbox.empty():
                return False
            self.told.state("idle")
            self.inbox.wait(_LOOK_S)
            return True
        try:
            with at_once():
                data = self.parts.identify(path)
        except DataChanged:
            raise
        except DataError as error:
            self._fail(path, error)
            return True
        if found := self.stream.known(data.md5):
            self.told.note(f"{data.name} is in the line already, as commit {found}")
            self.parts.done(path)
            return True
        if self._suspects.alone(path) and not self._rested and not self.once:
            # Nothing else can be trained: no device is mended by trying every ten seconds.
            self._rested, self._failures = True, self._suspects.place(path)
            number = self._suspects.failures(path)
            self._wait(f"{data.name} broke off in {number} processes: is the device sound?")
            return True
        self._train(data, settings)
        return True

    def _next(self, settings: Settings) -> Path | None:
        """The file to train now: the one that was interrupted, or the first that is whole."""
        # What is being committed is still there, and must not be waited for.
        ready = [path for path in self.parts.ready(settings) if path != self.stream.flying]
        ready.sort(key=self._suspects.place)
        self.told.queue([path.name for path in ready])
        self._then = ready[1:2]
        begun = runs.interrupted(self.at)
        for path in ready if begun is not None else ():
            if path.resolve() == begun:
                self._then = [each for each in ready if each != path][:1]
                return path
        if begun is not None and begun.exists() and self.inbox.takes(begun):
            return None  # somebody writes to it again; it is waited for
        if begun is not None and begun.exists() and begun.is_relative_to(self.at.watch.resolve()):
            return begun  # joined or split by us
        return ready[0] if ready else None

    def _train(self, data: DataFile, settings: Settings, how: TrainSettings | None = None) -> None:
        def check(curve: tuple[CurvePoint, ...]) -> None:
            guards.check_loss(curve, self._recent, settings.watch.explode, data.name)
            self._recent.append(curve[-1].loss)

        words = None
        if how is not None:
            words = (
                f"Out of memory with micro-batches of {settings.train.micro_batch_size}: trained "
                f"with {how.micro_batch_size}, accumulated {how.gradient_accumulation_steps} times"
            )
        self.told.state("training")
        self._current = data
        try:
            self.stream.train(data, check=check, how=how, message=words)
            return
        except Exception as error:
            culprit = self.stream.culprit
            less = guards.halved(settings.train)
            smaller = guards.fate(error) == "smaller" and how is None and less is not None
            if not smaller or culprit is None or culprit.md5 != data.md5:
                raise
        self.told.warn(f"{data.name} did not fit the device's memory: once more, in smaller pieces")
        self._train(data, settings, less)

    def _trouble(self, culprit: DataFile | None, error: Exception) -> None:
        """Do what `guards.fate` says."""
        fate = guards.fate(error)
        if fate == "stop":
            return
        if fate == "again" and culprit is not None:
            self._suspect(culprit, error)
        if fate == "later":
            if culprit is not None:
                self._drop(culprit)
            self.told.note(f"{error}: left alone until it rests")
            self.inbox.wait(_LOOK_S)
            return
        if fate in ("fail", "smaller") and culprit is not None:
            self._drop(culprit)
            self._fail(culprit.path, error)
            return
        if self.once or fate == "again":
            raise error
        hint = f". {error.hint}" if isinstance(error, MvcError) else ""
        self._wait(f"{error}{hint}", "waiting for disk" if fate == "room" else "waiting")

    def _suspect(self, culprit: DataFile, error: Exception) -> NoReturn:
        """Blame the file or not; end this process, whose device may be broken for all to come."""
        if self._suspects.failed(culprit):
            self._drop(culprit)
            self._fail(culprit.path, error)
        elif self._suspects.place(culprit.path):
            self._drop(culprit)  # others go first now
        way = "start `mvc watch` again, if systemd does not: a fresh process tries once more"
        self.told.warn(f"{culprit.name}: {error}; {way}")
        if isinstance(error, EngineError):
            raise EngineError(f"{culprit.name}: {error}", way) from error
        raise error

    def _drop(self, culprit: DataFile) -> None:
        """Throw away what is kept of a batch, so that it is not gone on with."""
        if runs.interrupted(self.at) == culprit.path.resolve():
            runs.drop(self.at)

    def _fail(self, path: Path, error: Exception) -> None:
        try:
            where = self.parts.failed(path, error)
        except (MvcError, OSError) as own:
            if self.once:
                raise
            self._wait(f"{path.name} cannot be set aside: {own}")
            return
        self.told.failed(path.name, str(error), where)

    def _committed(self, data: DataFile, result: BatchResult) -> None:
        """In the writer's thread: the batch is in the line, its file is done with."""
        self._failures = 0
        self._suspects.trained(data.md5)
        self.told.committed(result)
        try:
            self.parts.done(data.path)
        except (MvcError, OSError) as error:
            # It is in the line: the next look at the inbox moves it.
            self.told.warn(f"{data.name} could not be moved to done/: {error}")

    def _look_ahead(self) -> None:
        """After a step: a sign of life, the queue, and the next file read."""
        self.told.beat()
        for path in self._then:
            self.stream.read_ahead(path)
        self._then = []
        now = time.monotonic()
        if now < self._look_at:
            return
        with suppress(MvcError, OSError):
            settings = config.load(self.at)
            busy = (self._current.path, self.stream.flying)
            ready = [path for path in self.parts.ready(settings) if path not in busy]
            self.told.queue([path.name for path in ready])
            for path in ready[:1]:
                self.stream.read_ahead(path)
        # In the thread that trains: of ten thousand files a look takes 0.2 s.
        self._look_at = now + max(_LOOK_S, _LOOKS * (time.monotonic() - now))

    def _wait(self, why: str, state: State = "waiting") -> None:
        """Say why, and come back later, at SIGHUP, or when mvc.toml has changed."""
        seconds = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self.told.state(state, why)
        before = self._stamp()
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._should_stop():
            self.told.state(state, why)  # a sign of life
            if self._wake.wait(_LOOK_S) or control.wanted(self.at):
                self._wake.clear()
                break
            if self._stamp() != before:
                break

    def _stamp(self) -> int | None:
        """When mvc.toml was written; None where it is not there just now."""
        try:
            return self.at.config.stat().st_mtime_ns
        except OSError:
            return None

    def _pause(self) -> None:
        """Let go of the line until `mvc watch --resume`."""
        if self._line is not None:
            self.stream.drain()
        self._let_go()
        while control.wanted(self.at) and not self._should_stop():
            self.told.state("paused")
            self._wake.wait(_LOOK_S)
        while not self._should_stop():
            try:
                self._take()
                return
            except LockHeld as error:
                self.told.state("paused", error.message)
                self._wake.wait(_LOOK_S)
