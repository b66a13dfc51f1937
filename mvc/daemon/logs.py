"""The daemon's log, a file a day, and the Progress that writes it.

Owns `logs/daemon_YYYYMMDD.log` in the repo's zone and the words of its lines. Every logging step
is a line with the word `Loss`, for `tail -f logs/daemon_$(date +%Y%m%d).log | grep Loss`. Refuses
to end the daemon: a line that cannot be written is counted, and told once there is room.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from mvc.daemon import metrics
from mvc.daemon.status import Board, plain
from mvc.errors import MvcError
from mvc.store import config, history
from mvc.store.layout import Layout
from mvc.types import SILENT, BatchResult, Commit, Progress, Snapshot, StepReport
from mvc.watching import Failure, Landed, Pin, State, WatchStatus

Clock = Callable[[], datetime]


class DayFile(logging.Handler):
    """Appends each record to the file of its day.

    The file is opened for every line: one that a day, a log rotation or a person's `rm` takes
    away is no trouble then.

    Args:
        folder: Where the files are; made where it is missing.
        clock: The present, in the zone whose midnight counts.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__()
        self._folder, self._clock, self._lost = folder, clock, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as `TIME LEVEL TEXT`, one line for each of its text."""
        now = self._clock()
        lines = [f"{record.levelname:<7} {each}" for each in self.format(record).splitlines()]
        if self._lost:
            # The one before may have got through by half: its line ends here.
            lines = ["", f"WARNING {self._lost} records before this one were lost", *lines]
        stamp = now.isoformat(timespec="seconds")
        data = "".join(f"{stamp} {plain(each)}\n" if each else "\n" for each in lines).encode()
        try:
            self._append(self._folder / f"daemon_{now:%Y%m%d}.log", data)
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def _append(self, path: Path, data: bytes) -> None:
        # A repo that came from elsewhere must not lead the lines to another file.
        if self._folder.is_symlink():
            raise NotADirectoryError(self._folder)
        self._folder.mkdir(exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
        try:
            if os.write(handle, data) < len(data):
                raise OSError(f"{path} has no room")
        finally:
            os.close(handle)


class Onward:
    """Passes on to a Progress until its terminal is gone: a daemon outlives who started it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: object) -> None:
            try:
                getattr(self._progress, name)(*args)
            except OSError:
                self._progress = SILENT

        return call


class DaemonProgress:
    """What the daemon tells: to its log, its status file, its metrics, and whoever watches.

    Args:
        at: the model repo.
        inbox: the folder that it watches.
        onward: hears what the log hears.
        metrics_port: serve Prometheus' figures on this port of the loopback.
        on_status: told every status that is published.
        clock: the present in the repo's zone; by default the machine's clock in mvc.toml's zone.

    Raises:
        LockHeld: on entering, another daemon lives for this repo.
        StoreError: on entering, the port is taken.
    """

    def __init__(
        self,
        at: Layout,
        inbox: Path,
        onward: Progress | None = None,
        *,
        metrics_port: int | None = None,
        on_status: Callable[[WatchStatus], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._at, self._port = at, metrics_port
        self._onward = Onward(onward or SILENT)
        self._zone = config.zone(config.load(at))
        self._clock = clock or (lambda: datetime.now(self._zone))
        self._moving = ""
        self._stack = ExitStack()
        self._log = logging.Logger("mvc watch", logging.INFO)
        self._log.addHandler(DayFile(at.logs, self._clock))
        self.board = Board(at, inbox, self._clock, on_status)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.board)
            if self._port is not None:
                url = stack.enter_context(metrics.served(self._port, self._at, self.board))
                self._log.info("Metrics are at %s", url)
            self._stack = stack.pop_all()
        self._log.info("Started: process %d watches %s", os.getpid(), self.board.status.inbox)
        self._remember()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, MvcError):
            self._log.error("Ended: %s. %s", error.message, error.hint)
        elif isinstance(error, Exception):
            self._log.error("Ended by a bug of ours", exc_info=error)
        else:
            self._log.info("Ended")
        self._stack.__exit__(kind, error, trace)

    def _remember(self) -> None:
        """What the line already has, for the status; one that cannot be read has nothing."""
        with suppress(MvcError):
            pins = [Pin(pin.day, pin.time) for pin in history.snapshots(self._at.root)[:1]]
            last = _landed(history.commit(self._at.root))
            self.board.update(last_commit=last, last_snapshot=pins[0] if pins else None)

    # --- Progress -------------------------------------------------------------------------------

    def stage(self, text: str) -> None:
        """A phase has begun."""
        self._log.info(text)
        self.board.update(phase=text)
        self._onward.stage(text)

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        """A batch begins."""
        with suppress(MvcError):  # mvc.toml may have changed
            self._zone = config.zone(config.load(self._at))
        resumed = f", from step {first_step}" if first_step else ""
        self._log.info("Training %s: %d steps%s", name, num_steps, resumed)
        self.board.update(
            state="training", why="", phase="", batch=name, step=first_step, num_steps=num_steps
        )
        self._onward.start(name, num_steps, first_step)

    def step(self, report: StepReport) -> None:
        """A logging step is done."""
        self._log.info(line(report))
        self.board.step(report)
        self._onward.step(report)

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """Bytes of a transfer are there."""
        if text != self._moving:
            self._moving = text
            self._log.info("%s: %.0f MB", text, total_bytes / 1e6)
        self.board.beat()
        self._onward.transfer(text, done_bytes, total_bytes)

    def note(self, text: str) -> None:
        """A fact that the user should read."""
        self._log.info(text)
        self.board.event(text)
        self._onward.note(text)

    def stop(self) -> None:
        """A phase or the training has ended."""
        self._moving = ""
        self._onward.stop()

    # --- what only a daemon tells ---------------------------------------------------------------

    def warn(self, text: str) -> None:
        """A fact that somebody should act on."""
        self._log.warning(text)
        self.board.event(text)
        self._onward.note(text)

    def state(self, name: State, why: str = "") -> None:
        """What the daemon does from now on; asked again, it is only a sign of life."""
        now = self.board.status
        if (name, why) == (now.state, now.why):
            self.board.beat()
            return
        self.board.update(state=name, why=why, phase="")
        text = f"{name.capitalize()}{': ' if why else ''}{why}"
        if why:
            self.warn(text)
        elif name != "training":
            self._log.info(text)
            self._onward.note(text)

    def beat(self) -> None:
        """The daemon lives."""
        self.board.beat()

    def queue(self, names: Iterable[str]) -> None:
        """The files that wait, the next one first."""
        self.board.queue(names)

    def committed(self, result: BatchResult) -> None:
        """A batch is in the line."""
        commit = result.commit
        text = f"Committed {_words(commit)}"
        self._log.info("%s, %.0f s", text, commit.seconds or 0.0)
        self.board.event(
            text, last_commit=_landed(commit), num_batches=self.board.status.num_batches + 1
        )
        self._onward.note(text)

    def failed(self, name: str, why: str, where: Path | None = None) -> None:
        """A file went to `failed/`; `where` is the file or the text that says why."""
        text = f"Failed: {why}" if why.startswith(name) else f"Failed: {name}: {why}"
        self._log.error("%s%s", text, f" (see {where})" if where else "")
        self.board.event(
            text,
            last_failure=Failure(plain(name), plain(why), self._clock()),
            num_failures=self.board.status.num_failures + 1,
        )
        self._onward.note(text)

    def pinned(self, pin: Snapshot) -> None:
        """A day has its snapshot."""
        text = f"Pinned {pin.tag} at {pin.commit.short}"
        self._log.info(text)
        self.board.event(text, last_snapshot=Pin(pin.day, pin.time))
        self._onward.note(text)


def line(report: StepReport) -> str:
    """A logging step in one line; scripts look for the word `Loss` in it."""
    point = report.point
    return (
        f"step {point.step}/{report.num_steps}  Loss {point.loss:.4f}  "
        f"rate {point.learning_rate:.1e}  {report.tokens_per_s:.0f} tok/s  "
        f"{report.memory_bytes / 1e9:.1f} GB  lifetime step {point.lifetime_step}"
    )


def _landed(commit: Commit) -> Landed:
    subject = commit.message.partition("\n")[0]
    return Landed(commit.short, commit.batch, plain(subject), commit.time)


def _words(commit: Commit) -> str:
    name = commit.data.name if commit.data else commit.message.partition("\n")[0]
    loss = f", loss {commit.loss.first:.3f} → {commit.loss.last:.3f}" if commit.loss else ""
    number = f"@{commit.batch} " if commit.batch is not None else ""
    return f"{number}{commit.short} {name}{loss}"
