"""One rank of a batch that several processes train: `python -m mvc.engine.worker`.

Started by `mvc.engine.launch` under torchrun. Rank 0 reads batches as lines of JSON from stdin and
tells its progress and its results as lines on stdout, where every rank tells its error.
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

from mvc.engine import ranks, team, train
from mvc.engine.launch import PARENT, STOP
from mvc.engine.session import Session
from mvc.errors import MvcError
from mvc.types import StepReport


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
    """End this rank when the command or torchrun is gone: an orphan must not write into the run
    folder.

    Gone is also a process that nobody has waited for yet, and another one under its number.
    """
    torchrun = os.getppid()
    while True:
        try:
            launcher = psutil.Process(parent)
            alive = launcher.create_time() == created
            alive = alive and launcher.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            alive = False
        if not alive or os.getppid() != torchrun:
            os._exit(1)
        time.sleep(0.1)


def main(root: str) -> int:
    """Train what comes, with the repo or a stand-in for it at `root`; returns the exit code."""
    pid, created = os.environ[PARENT].split()
    threading.Thread(target=_end_with, args=(int(pid), float(created)), daemon=True).start()
    should_stop = Path(os.environ[STOP]).exists
    try:
        rank, _ = ranks.launched() or (0, 1)
        if rank > 0:
            team.follow(Path(root), should_stop)
            return 0
        session = Session(Path(root))
        with team.lead(session) as leading:
            for line in sys.stdin.buffer:
                job = msgspec.json.decode(line, type=train.Job)
                session.allowed = job.allowed
                _tell(event="result", result=leading.run(job, _Telling(), should_stop))
                session.forget(job.data_md5)
    except MvcError as error:
        _tell(event="error", error=team.Told.of(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
