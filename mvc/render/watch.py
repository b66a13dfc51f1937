"""`mvc watch`: its live screen in a terminal, and the answer of `mvc watch --status`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import PurePath
from types import TracebackType
from typing import Self, TextIO

from rich.text import Text

from mvc.render import format as fmt
from mvc.render.facts import Fact, facts
from mvc.render.sparkline import sparkline
from mvc.watching import WatchHealth, WatchStatus

_STYLE = {"training": "green", "idle": "green", "waiting": "red", "waiting for disk": "red"}
_WIDE, _SIDE = 120, 48
"""Columns from which the queue stands beside the events, and how many it gets there."""
_LEAST_CURVE = 5
_NEXT = 5
"""Names of the queue that stand in one line."""
_FOOT = "Ctrl-C stops after the step in progress; `mvc watch --pause` lets others train"


# --- mvc watch --status ---------------------------------------------------------------------------


def status(value: WatchHealth, *, now: datetime) -> Iterator[Text]:
    """What the daemon does, and what is wrong with it."""
    if value.status is not None:
        yield facts(_facts(value, value.status, now))
    elif value.daemon is not None:
        yield facts([("daemon", fmt.plain(value.daemon)), ("state", "has not spoken yet")])
    if value.trouble and (value.status is None or value.trouble != value.status.why):
        yield Text(f"! {fmt.plain(value.trouble)}", "red")
    if value.daemon is None:
        yield Text("  `mvc watch INBOX` starts one; logs/ tells how the last one ended", "dim")
    elif value.status is not None and value.status.state == "paused":
        yield Text("  `mvc watch --resume` lets it go on", "dim")


def _facts(value: WatchHealth, told: WatchStatus, now: datetime) -> Iterator[Fact]:
    if value.daemon:
        yield "daemon", fmt.plain(value.daemon)
        yield "state", _state(told)
    if told.phase and value.daemon:
        yield "phase", told.phase
    yield "inbox", told.inbox
    if told.batch:
        left = f", {fmt.duration(told.seconds_left)} left" if told.seconds_left else ""
        yield "batch", f"{told.batch}, step {told.step:,} of {told.num_steps:,}{left}"
    if told.loss is not None:
        yield "figures", ", ".join(_figures(told))
        yield "loss", sparkline([point.loss for point in told.losses], 60)
    if value.seconds_since_step is not None:
        yield "last step", f"{fmt.duration(value.seconds_since_step)} ago"
    yield "queue", _queue(told)
    yield from _last(told, now)
    done = fmt.count(told.num_batches, "batch", "batches")
    failed = fmt.count(told.num_failures, "failure")
    yield "since start", f"{done}, {failed}, {fmt.duration(_up(told, now))}"


def _state(told: WatchStatus) -> Text:
    text = Text(told.state, _STYLE.get(told.state, "yellow"))
    return text.append(f": {told.why}", "default") if told.why else text


def _figures(told: WatchStatus) -> list[str]:
    figures = [f"{told.tokens_per_s:,.0f} tok/s", fmt.size(told.memory_bytes)]
    if told.learning_rate is not None:
        figures.insert(0, f"rate {fmt.rate(told.learning_rate)}")
    if told.loss is not None:
        figures.insert(0, f"Loss {told.loss:.4f}")
    if told.lifetime_step is not None:
        figures.append(f"lifetime step {told.lifetime_step:,}")
    return figures


def _queue(told: WatchStatus) -> str:
    if not told.num_queued:
        return "empty"
    more = ", ..." if told.num_queued > _NEXT else ""
    return f"{fmt.count(told.num_queued, 'file')}: {', '.join(told.queue[:_NEXT])}{more}"


def _last(told: WatchStatus, now: datetime) -> Iterator[Fact]:
    """The last commit, snapshot and failure."""
    commit, pin, failure = told.last_commit, told.last_snapshot, told.last_failure
    if commit is not None:
        words = f"{fmt.age(commit.time, now)}  {commit.short}  {commit.subject}"
        yield "last commit", words
    yield "snapshot", f"{fmt.age(pin.time, now)}  {pin.day}" if pin else "none yet"
    if failure is not None:
        named = "" if failure.why.startswith(failure.file) else f"{failure.file}: "
        words = f"{fmt.age(failure.time, now)}  {named}{failure.why}"
        yield "last failure", Text(words, "red")


def paused(daemon: str | None) -> Iterator[Text]:
    """What `mvc watch --pause` did."""
    if daemon is None:
        yield Text("No daemon lives; one that is started will wait")
    else:
        yield Text(f"Paused {fmt.plain(daemon)}")
    yield Text("  train, check out and roll back now; `mvc watch --resume` ends it", "dim")


def resumed(daemon: str | None) -> Iterator[Text]:
    """What `mvc watch --resume` did."""
    if daemon is None:
        yield Text("No daemon lives; `mvc watch INBOX` starts one")
    else:
        yield Text(f"Goes on: {fmt.plain(daemon)}")


def ended(value: WatchStatus) -> Iterator[Text]:
    """What a daemon that has ended did."""
    done = fmt.count(value.num_batches, "batch", "batches")
    failed = f", {fmt.count(value.num_failures, 'file')} failed" if value.num_failures else ""
    yield Text(f"Trained {done}{failed} in {fmt.duration(_up(value, value.written))}")
    if value.num_failures:
        yield Text(f"  {value.inbox}/failed/ has each with a text that says why", "dim")


def _up(value: WatchStatus, now: datetime) -> float:
    return fmt.elapsed(value.since, now)


# --- the live screen ------------------------------------------------------------------------------


class Screen:
    """The whole terminal while the daemon lives, drawn twice a second.

    Args:
        file: the terminal.
        clock: the present, for ages.
    """

    def __init__(self, file: TextIO, clock: Callable[[], datetime]) -> None:
        from rich.live import Live

        from mvc.render.console import console

        self._console, self._clock = console(file), clock
        self._status: WatchStatus | None = None
        self._live = Live(
            console=self._console,
            get_renderable=self._drawn,
            screen=True,
            refresh_per_second=2,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the terminal is gone; the daemon outlives it
            self._live.stop()

    def show(self, status: WatchStatus) -> None:
        """Draw this from now on; any thread may call it."""
        self._status = status

    def _drawn(self) -> Text:
        if self._status is None:
            return Text("Starting ...", "dim")
        width, height = self._console.size
        return screen(self._status, now=self._clock(), width=width, height=height)


def fits(file: TextIO) -> bool:
    """Whether `file` is a terminal that can show a screen."""
    from mvc.render.console import console

    return file.isatty() and not console(file).is_dumb_terminal


def screen(value: WatchStatus, *, now: datetime, width: int, height: int) -> Text:
    """Batch, curve of the last hours, queue and last events, in at most `height` lines."""
    wide = width >= _WIDE
    top = [_title(value, now, width), *_batch(value, now, width)]
    rows: list[Fact] = [] if wide else [("queue", _queue(value))]
    below = [*facts([*rows, *_last(value, now)]).split("\n"), Text()]
    room = height - len(top) - len(below) - 2
    curve = min(room * 2 // 3, 24)
    if value.losses and curve >= _LEAST_CURVE:
        from mvc.render.plot import recent

        span = (value.losses[-1].time - value.losses[0].time).total_seconds()
        top.append(Text(f"  loss of the last {fmt.duration(span)}", "dim"))
        top += recent(value.losses, width=width - 1, height=curve).split("\n")
        room -= curve + 1
    top.append(Text())
    last = value.events[-room:] if room > 0 else ()
    events = [Text.assemble((f"  {e.time:%H:%M:%S}", "dim"), f"  {e.text}") for e in last]
    if wide:
        events = _beside(events, _names(value, room), width)
    events += [Text()] * (room - len(events))
    lines = [*top, *below, *events, Text(f"  {_FOOT}", "dim")]
    for each in lines:
        each.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines[:height])


def _title(value: WatchStatus, now: datetime, width: int) -> Text:
    up = fmt.duration(_up(value, now))
    done = fmt.count(value.num_batches, "batch", "batches")
    failed = f", {value.num_failures} failed" if value.num_failures else ""
    state = (value.state, _STYLE.get(value.state, "yellow"))
    left = Text.assemble(("  mvc watch  ", "bold"), PurePath(value.root).name, "  ", state)
    right = f"  {done}{failed}, up {up}"
    left.truncate(max(width - len(right), 0), overflow="ellipsis", pad=True)
    return left.append(right, "dim")


def _batch(value: WatchStatus, now: datetime, width: int) -> list[Text]:
    """The bar of the batch in progress, or of the last one, and its figures; or why it waits."""
    if value.why:
        words = textwrap.wrap(value.why, max(width - 4, 1), max_lines=2, placeholder=" …")
        return [Text(f"  {each}", "red") for each in words]
    if value.batch is None:
        return [Text(f"  {value.phase or f'waits for files in {value.inbox}'}")]
    left = ""
    if value.state == "training" and value.seconds_left is not None:
        left = f"  {fmt.duration(value.seconds_left)} left"
    name = fmt.shorten(value.batch, max(width // 4, 8))
    end = f"  {value.step:,}/{value.num_steps:,}{left}"
    room = max(width - len(name) - len(end) - 6, 1)
    done = room * value.step // value.num_steps if value.num_steps else 0
    bar = Text.assemble(f"  {name}  ", ("━" * done, "cyan"), ("─" * (room - done), "dim"), end)
    figures = _figures(value)
    if value.last_step_time is not None:
        seconds = max(fmt.elapsed(value.last_step_time, now), 0)
        figures.append(f"last step {fmt.duration(seconds)} ago")
        figures.insert(1, figures.pop())
    line = ""
    for figure in figures:  # those that a narrow terminal has room for
        if len(line) + len(figure) + 2 <= width:
            line += f"  {figure}"
    return [bar, Text(line)]


def _names(value: WatchStatus, room: int) -> list[Text]:
    """The queue as a column: the first names, and how many more there are."""
    names = [Text(f"  {name}") for name in value.queue[: max(room - 1, 0)]]
    more = value.num_queued - len(names)
    if len(names) == room - 1 and more > 0 and names:
        names[-1] = Text(f"  and {more + 1:,} more")
    return [Text(f"queue: {fmt.count(value.num_queued, 'file')}", "bold"), *names][: max(room, 0)]


def _beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two columns; the right one is `_SIDE` wide."""
    rows = []
    for number in range(max(len(left), len(right))):
        row = left[number].copy() if number < len(left) else Text()
        row.truncate(width - _SIDE, overflow="ellipsis", pad=True)
        rows.append(row.append_text(right[number]) if number < len(right) else row)
    return rows
