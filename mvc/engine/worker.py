"""One rank of a batch that several processes train: `python -m mvc.engine.worker JOB.json`.

Started by `mvc.engine.launch` under torchrun. Rank 0 tells its progress and its result as lines
of JSON on stdout; an error that mvc knows is told in the same way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mvc.engine import ranks, train
from mvc.engine.launch import PARENT, STOP_FILE
from mvc.engine.session import Session
from mvc.errors import MvcError
from mvc.types import SILENT, Progress, StepReport


def _tell(**event: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


class _Telling:
    """A Progress that writes events for the process that launched the ranks."""

    def stage(self, text: str) -> None:
        _tell(event="stage", text=text)

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        _tell(event="start", name=name, num_steps=num_steps, first_step=first_step)

    def step(self, report: StepReport) -> None:
        _tell(event="step", report=report)

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None: ...  # never here

    def note(self, text: str) -> None:
        _tell(event="note", text=text)

    def stop(self) -> None: ...


def _end_with(parent: int, created: float) -> None:
    """End this rank when the launcher is gone: an orphan must not write into the run folder.

    Gone is also a process that nobody has waited for yet, and another one under its number.
    """
    while True:
        try:
            launcher = psutil.Process(parent)
            alive = launcher.create_time() == created
            alive = alive and launcher.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            alive = False
        if not alive:
            os._exit(1)
        time.sleep(0.1)


def main(path: str) -> int:
    """Train the job in the file `path`; returns the exit code."""
    pid, created = os.environ[PARENT].split()
    threading.Thread(target=_end_with, args=(int(pid), float(created)), daemon=True).start()
    job = msgspec.json.decode(Path(path).read_bytes(), type=train.Job)
    first = ranks.rank() == 0
    progress: Progress = _Telling() if first else SILENT
    stop = Path(job.run) / STOP_FILE
    try:
        result = train.run(job, Session(Path(job.root), job.allowed), progress, stop.exists)
    except MvcError as error:
        if first:
            _tell(event="error", kind=type(error).__name__, message=error.message, hint=error.hint)
        return 0
    if first:
        _tell(event="result", result=result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
