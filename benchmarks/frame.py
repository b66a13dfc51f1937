"""What every benchmark shares: runs that take turns, rows with a verdict, one JSON file each.

A figure is a ratio of two medians from runs that took turns on one machine, so that what else the
machine does hits both. The spread is the least and the greatest ratio of any one turn.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dvc", "torch", "transformers", "peft", "trl", "datasets")
BIN = Path(sys.executable).parent
BEGUN = time.monotonic()

Run = Callable[[], float | None]


@dataclass(frozen=True)
class Row:
    """One line of the table; `ratio` is what the target speaks of, a ratio or a figure in `unit`.

    `ours`, `theirs`: medians in `unit`. `low`, `high`: the spread of `ratio`. `why`: the reason
    where the target is missed, else what a reader should know.
    """

    what: str
    against: str
    target: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    ours: float | None
    theirs: float | None
    unit: str
    why: str


def interleaved(
    runs: dict[str, Run], repeats: int = 5, warm: int = 0, *, forwards: bool = False
) -> dict[str, list[float]]:
    """Run each in turn, `repeats` times over; returns the figures of each, in order of the turns.

    A run returns its own figure (seconds without its set-up, bytes, tokens/s), or None to be timed
    from outside. The first `warm` turns are thrown away. Every second turn goes backwards, so that
    none always runs in the wake of the same other; `forwards` where one run needs what another did.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warm, repeats):
        for name in list(runs) if forwards or turn % 2 == 0 else reversed(list(runs)):
            begun = time.perf_counter()
            figure = runs[name]()
            figure = time.perf_counter() - begun if figure is None else figure
            if turn >= 0:
                found[name].append(figure)
            tell(f"  {name}: {figure:.4g}" + (" (warming up)" if turn < 0 else ""))
    return found


def row(
    what: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float] | None = None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "s",
    why: str = "",
) -> Row:
    """A row from the figures of `interleaved`.

    Without `theirs` the target speaks of `ours` itself, in `unit`. With neither bound it is a row
    for comparison only.
    """
    mine = statistics.median(ours)
    other = statistics.median(theirs) if theirs else None
    each = [a / b for a, b in zip(ours, theirs, strict=True)] if theirs else list(ours)
    ratio = mine / other if other is not None else mine
    if at_most is not None:
        target, met = f"at most {at_most:g}", ratio <= at_most
    elif at_least is not None:
        target, met = f"at least {at_least:g}", ratio >= at_least
    else:
        target, met = "", None
    if target and not theirs:
        target = f"{target} {unit}"
    verdict = {True: "met", False: "MISSED", None: "for comparison"}[met]
    return Row(what, against, target, ratio, min(each), max(each), verdict, mine, other, unit, why)


def not_run(what: str, against: str, target: str, why: str) -> Row:
    """A row for what could not be measured here, and why."""
    return Row(what, against, target, None, None, None, "not run", None, None, "", why)


def write(name: str, rows: list[Row], **more: Any) -> None:
    """Write results/NAME.json, with the seconds that the program took so far.

    `more` holds what else it found (points for a plot).
    `ratio` is what `dvc metrics show` shows: it passes over lists.
    """
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Any] = {
        "ratio": {_plain(f"{each.what} / {each.against}"): each.ratio for each in rows},
        "rows": [asdict(each) for each in rows],
        "about": about(),
        "seconds": round(time.monotonic() - BEGUN),
        **more,
    }
    found["ratio"] = {key: value for key, value in found["ratio"].items() if value is not None}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    for each in rows:
        figure = "-" if each.ratio is None else f"{each.ratio:.3g}"
        tell(f"{each.what} against {each.against}: {figure} ({each.target}) {each.verdict}")
    tell(f"{name} took {found['seconds']} s")


def _plain(text: str) -> str:
    return "".join(char if char.isalnum() or char in " /-" else "" for char in text)


def about() -> list[str]:
    """What figures are of: the machine, the versions, the day."""
    return [machine(), versions(), f"{datetime.now(UTC):%Y-%m-%d}"]


def machine() -> str:
    """The machine in words: processor, memory, accelerator."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if "model name" in x), model)
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model}, {gigabytes:.0f} GiB, {platform.system()}"


def versions() -> str:
    """Versions of Python, git and the packages that take part."""
    git = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout.split()[2]
    found = [f"Python {platform.python_version()}", f"git {git}"]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def tell(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def call(*words: str | Path, cwd: Path, **env: str) -> float:
    """Run a command to its end and return its seconds; a failure is an error with its output.

    `python`, `mvc` and `dvc` are those beside this interpreter.
    """
    command = _command(words)
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds


def shown(*words: str | Path, cwd: Path) -> float:
    """`call` on a terminal of 120 columns, as a person sees it; its output is not kept."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (40, 120))
    begun = time.perf_counter()
    with subprocess.Popen(_command(words), cwd=cwd, stdin=inner, stdout=inner, stderr=inner) as run:
        os.close(inner)
        with contextlib.suppress(OSError):  # the other end is closed
            while os.read(outer, 1 << 16):
                pass
    seconds = time.perf_counter() - begun
    os.close(outer)
    if run.returncode:
        raise RuntimeError(f"{words}: {run.returncode}")
    return seconds


def _command(words: Sequence[str | Path]) -> list[str]:
    command = [str(word) for word in words]
    if (BIN / command[0]).exists():
        command[0] = str(BIN / command[0])
    return command


def settle(num_bytes: int = 5 << 28) -> None:
    """Make the next measurement pay for nothing but its own.

    What waits to be written is written out. And that much memory is touched and freed: in a
    virtual machine a page costs ten times as much when it is used for the first time, or for the
    first time after it lay idle.
    """
    os.sync()
    bytearray(b"\1") * num_bytes


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards, with a HOME, an author and no configuration of the user."""
    kept = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="mvc-benchmark-") as name:
        folder = Path(name)
        (folder / "home").mkdir()
        for key in os.environ:
            if key.startswith(("GIT_", "DVC_", "XDG_", "MVC_")):
                del os.environ[key]
        # Packages come compiled by their installer; what lies in a clone is compiled by its first
        # run, unless the environment forbids it.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(
            HOME=str(folder / "home"),
            TZ="UTC",
            GIT_CONFIG_GLOBAL=os.devnull,
            GIT_CONFIG_NOSYSTEM="1",
            GIT_AUTHOR_NAME="Ada",
            GIT_AUTHOR_EMAIL="ada@example.org",
            GIT_COMMITTER_NAME="Ada",
            GIT_COMMITTER_EMAIL="ada@example.org",
            DVC_NO_ANALYTICS="1",
            DVC_SITE_CACHE_DIR=str(folder / "home" / "dvc"),
            HF_HUB_OFFLINE="1",
        )
        try:
            yield folder
        finally:
            os.environ.clear()
            os.environ.update(kept)
