"""Progress on stderr: a bar in a terminal, one plain line a logging step elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from mvc.render import format as fmt
from mvc.types import Progress, StepReport

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.status import Status as Spinner


def progress(file: TextIO | None = None) -> Progress:
    """The display that fits `file` (stderr): `Bars` in a terminal, `Lines` elsewhere."""
    stream = sys.stderr if file is None else file
    return Bars(stream) if stream.isatty() else Lines(stream)


def line(report: StepReport) -> str:
    """A logging step in one line; scripts look for the word `Loss` in it."""
    step = report.point.step
    return f"step {step}/{report.num_steps}  {'  '.join(_figures(report))}"


def _figures(report: StepReport) -> list[str]:
    return [
        f"Loss {report.point.loss:.4f}",
        f"rate {fmt.rate(report.point.learning_rate)}",
        f"{report.tokens_per_s:.0f} tok/s",
        fmt.size(report.memory_bytes),
        f"{fmt.duration(report.seconds_left)} left",
    ]


class Lines:
    """A Progress for logs and pipes: every event is a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._sent: tuple[str, int] | None = None

    def _say(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()

    def stage(self, text: str) -> None:
        """Say what has begun."""
        self._say(fmt.plain(text))

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        """Name the batch and its steps."""
        resumed = f", from step {first_step}" if first_step else ""
        self._say(f"Training {fmt.plain(name)}: {fmt.count(num_steps, 'step')}{resumed}")

    def step(self, report: StepReport) -> None:
        """One line a logging step."""
        self._say(line(report))

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """One line each tenth of the way."""
        tenth = 10 * done_bytes // total_bytes if total_bytes else 10
        before = self._sent[1] if self._sent and self._sent[0] == text else -1
        if tenth > before:
            self._sent = (text, tenth)
            told = f"{fmt.size(done_bytes)} of {fmt.size(total_bytes)}"
            self._say(f"{fmt.plain(text)}: {told} ({10 * min(tenth, 10)} %)")

    def note(self, text: str) -> None:
        """A fact, as it is."""
        self._say(fmt.plain(text))

    def stop(self) -> None:
        """Lines need no taking down."""
        self._sent = None


class Bars:
    """A Progress for a terminal: a spinner for a phase, a bar for a batch."""

    def __init__(self, file: TextIO) -> None:
        from mvc.render.console import console

        self._console = console(file)
        self._spinner: Spinner | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._moving = ""

    def stage(self, text: str) -> None:
        """Show a spinner with `text` until the next event."""
        self.stop()
        self._spinner = self._console.status(fmt.plain(text))
        self._spinner.start()

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        """Show the bar of a batch."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.stop()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task(
            fmt.shorten(fmt.plain(name), 20), total=num_steps, completed=first_step, figures=""
        )
        self._bar.start()

    def step(self, report: StepReport) -> None:
        """Move the bar and renew its figures; a narrow terminal has room for the loss only."""
        if self._bar is not None and self._task is not None:
            shown = _figures(report)[: 5 if self._console.width >= 110 else 1]
            if self._console.width < 110:
                shown.append(f"{fmt.duration(report.seconds_left)} left")
            self._bar.update(self._task, completed=report.point.step, figures="  ".join(shown))

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """Show or move the bar of a transfer, in bytes."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        if self._bar is None or self._task is None or self._moving != text:
            self.stop()
            self._moving = text
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                DownloadColumn(),
                *([TransferSpeedColumn()] if self._console.width >= 80 else []),
                TimeRemainingColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task(fmt.shorten(fmt.plain(text), 32), total=total_bytes)
            self._bar.start()
        self._bar.update(self._task, completed=done_bytes, total=total_bytes)

    def note(self, text: str) -> None:
        """A fact above the bar."""
        self._console.print(fmt.plain(text))

    def stop(self) -> None:
        """Take down what is shown."""
        if self._spinner is not None:
            self._spinner.stop()
        if self._bar is not None:
            self._bar.stop()
        self._spinner = self._bar = self._task = None
        self._moving = ""
