"""The loss history in a trainer_state.json that another program wrote.

Owns reading it without trusting it, and telling what of it is new since an earlier state: a
Trainer's checkpoints repeat the log from the run's beginning, and a script that resumes with the
counter at 0 appends to it, with steps that begin at 1 again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from mvc.errors import StateError
from mvc.types import CurvePoint

_LARGEST = 256 << 20
_MOST_STEPS = 1 << 50


class Logged(msgspec.Struct, frozen=True):
    """One logged loss; `position` counts the steps of the whole log, from 1."""

    position: int
    loss: float
    learning_rate: float
    grad_norm: float | None


class Log(msgspec.Struct, frozen=True):
    """A state's loss history over `num_steps` optimizer steps.

    `num_broken` entries had a loss that is no finite number and are left out.
    """

    points: tuple[Logged, ...] = ()
    num_steps: int = 0
    num_broken: int = 0

    def since(self, earlier: Log) -> Log:
        """What is new since `earlier`, all of it where this log does not go on from that one.

        Positions still count from this log's beginning.
        """
        known = len(earlier.points)
        goes_on = known and self.points[:known] == earlier.points
        if not goes_on or self.num_steps < earlier.num_steps:
            return self
        return Log(self.points[known:], self.num_steps - earlier.num_steps)

    def curve(self, end: int, num_steps: int, lifetime_step: int) -> tuple[CurvePoint, ...]:
        """The points as a commit's curve.

        Args:
            end: the position at which the state was taken.
            num_steps: steps that the commit stands for; earlier points count as its first step.
            lifetime_step: of the line after them.
        """
        found = []
        for point in self.points:
            back = end - point.position
            found.append(
                CurvePoint(
                    step=max(num_steps - back, 1),
                    lifetime_step=max(lifetime_step - back, 1),
                    loss=point.loss,
                    learning_rate=point.learning_rate,
                    grad_norm=point.grad_norm,
                )
            )
        return tuple(found)


def read(path: Path) -> Log:
    """The losses of a trainer_state.json; none where there is no such file.

    Raises:
        StateError: it is no trainer_state.json.
    """
    if not path.is_file():
        return Log()
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        told = dict(json.loads(path.read_bytes()))
        entries = [entry for entry in told.get("log_history", ()) if isinstance(entry, dict)]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StateError(
            f"{path.name} cannot be read: {str(error)[:200]}", "move it away to import without it"
        ) from error
    points: list[Logged] = []
    start = last = num_broken = 0
    for entry in entries:
        step = _steps(entry.get("step"))
        loss, rate = _number(entry.get("loss")), _number(entry.get("learning_rate"))
        if not step or loss is None or rate is None:
            continue  # an evaluation, or the summary of a run
        if step <= last:  # another run, that appended to this log
            start += last
        last = step
        if not (math.isfinite(loss) and math.isfinite(rate)):
            num_broken += 1
            continue
        norm = _number(entry.get("grad_norm"))
        finite = norm if norm is not None and math.isfinite(norm) else None
        points.append(Logged(start + step, loss, rate, finite))
    # The counter itself, or where a script has set it to 0, the length of the last run.
    counter = _steps(told.get("global_step")) or _steps(told.get("max_steps"))
    return Log(tuple(points), start + max(last, counter), num_broken)


def _steps(value: Any) -> int:
    """A count of steps; 0 for what is none."""
    known = isinstance(value, int) and not isinstance(value, bool)
    return value if known and 0 < value < _MOST_STEPS else 0


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if known else None
    except OverflowError:
        return math.inf
