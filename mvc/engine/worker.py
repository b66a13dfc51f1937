"""One rank of a batch that several processes train: `python -m mvc.engine.worker`.

Started by `mvc.engine.launch` under torchrun. Rank 0 reads orders as lines of JSON from stdin and
tells its progress and its results as lines on what was stdout, where every rank tells that it has
met the others, and its error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from mvc.engine import ranks, team
from mvc.engine.launch import STOP, Order
from mvc.engine.session import Session
from mvc.engine.watched import end_with_parent
from mvc.errors import MvcError
from mvc.types import StepReport


class _Telling:
    """A Progress that writes events for the process that launched the ranks.

    To a stdout of its own: what a library prints goes to the log. A line of it in the middle of a
    result would have both sides wait for each other.
    """

    def __init__(self) -> None:
        self._to: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def tell(self, **event: object) -> None:
        """Write an event, on a line of its own whatever was printed before."""
        self._to.write(b"\n" + msgspec.json.encode(event, enc_hook=str) + b"\n")
        self._to.flush()

    def fail(self, error: MvcError) -> None:
        """Write the event of an error."""
        self.tell(event="error", error=team.Told.of(error))

    def stage(self, text: str) -> None:
        self.tell(event="stage", text=text)

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        self.tell(event="start", name=name, num_steps=num_steps, first_step=first_step)

    def step(self, report: StepReport) -> None:
        self.tell(event="step", report=report)

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None: ...  # never here

    def note(self, text: str) -> None:
        self.tell(event="note", text=text)

    def stop(self) -> None: ...


def main(root: str) -> int:
    """Train what comes, with the repo or a stand-in for it at `root`; returns the exit code."""
    end_with_parent()
    telling, should_stop = _Telling(), Path(os.environ[STOP]).exists
    try:
        ranks.join(should_stop)
        telling.tell(event="joined")
        if ranks.rank() > 0:
            # Beside rank 0 nobody leaves between two batches: torchrun would end rank 0 too.
            elsewhere = os.environ["GROUP_RANK"] != "0"
            team.follow(Path(root), should_stop, may_leave=elsewhere, lost=telling.fail)
            return 0
        session = Session(Path(root))
        with team.lead(session, should_stop, telling.fail) as leading:
            for line in sys.stdin.buffer:
                order = msgspec.json.decode(line, type=Order)
                if order.error:
                    raise order.error.error(0)
                if job := order.job:
                    session.allowed = job.allowed
                    telling.tell(event="result", result=leading.run(job, telling, should_stop))
                    session.forget(job.data_md5)
    except MvcError as error:
        telling.fail(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
