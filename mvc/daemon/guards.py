"""What the daemon does about trouble: refuse a batch, try it again smaller, or wait.

Owns the judgement, no action: a batch that explodes, a disk that fills, and whose fault an error
is. A batch's own fault sends its file to `failed/`; anything else makes the daemon wait, because
the next file would meet it too.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from msgspec.structs import replace

from mvc.errors import BaseModelError as _BaseModelError
from mvc.errors import (
    ConfigError,
    DataChanged,
    DataError,
    DiskFull,
    EngineError,
    Interrupted,
    MissingExtra,
    MvcError,
    OutOfMemory,
    ScheduleEnded,
    StateError,
    TrainingFailed,
)
from mvc.settings import LaunchSettings, TrainSettings
from mvc.types import CurvePoint

Fate = Literal["stop", "later", "fail", "smaller", "again", "room", "wait"]
"""stop: it was asked for. later: it is still written to. fail: the file's own fault. smaller: once
more with half the micro-batch. again: in a fresh process, because this one or its device may be
broken. room: until the disk has room. wait: somebody must mend something."""

_LEAST_RISE = 0.5
"""A loss near 0 doubles by noise: a rise must also be this large to count."""


def fate(error: BaseException) -> Fate:
    """What becomes of a batch that ended with `error`."""
    if isinstance(error, Interrupted):
        return "stop"
    if isinstance(error, DataChanged):
        return "later"
    if isinstance(error, DataError | TrainingFailed):
        return "fail"
    if isinstance(error, OutOfMemory):
        return "smaller"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, DiskFull) or full:
        return "room"
    mendable = (ScheduleEnded, StateError, MissingExtra, _BaseModelError)
    if isinstance(error, EngineError) and not isinstance(error, mendable):
        return "again"
    # A file's own read errors are DataErrors: any other is the machine's (EIO, EMFILE, ESTALE).
    return "wait" if isinstance(error, MvcError | OSError) else "again"


def check_loss(
    curve: Sequence[CurvePoint], recent: Sequence[float], factor: float, name: str
) -> None:
    """Refuse a batch whose loss ran away, though every value of it is finite.

    Its last quarter is compared with its own first quarter and with the ends of the line's last
    batches: new data may begin high, but then the loss falls.

    Args:
        curve: the batch's loss.
        recent: the last losses of the batches before it; none are needed.
        factor: how many times the higher of the two is too much; 0 checks nothing.
        name: the batch, for the message.

    Raises:
        TrainingFailed: it exploded.
    """
    losses = [point.loss for point in curve]
    if not factor or len(losses) < 2:
        return
    quarter = max(len(losses) // 4, 1)
    before = max([fmean(losses[:quarter]), *([fmean(recent)] if recent else [])])
    after = fmean(losses[-quarter:])
    if after > factor * before and after - before > _LEAST_RISE:
        raise TrainingFailed(
            f"the loss of {name} exploded: it ended at {after:.2f}, and {before:.2f} was usual",
            "look at its rows with `mvc train --dry-run --dump rows.jsonl FILE`, lower "
            "train.learning_rate, or raise watch.explode in mvc.toml",
        )


def halved(how: TrainSettings) -> TrainSettings | None:
    """Half the micro-batch and twice the accumulation: the same global batch in less memory.

    An odd micro-batch is taken row by row; None where it is one row already.
    """
    size = how.micro_batch_size
    parts = 2 if size % 2 == 0 else size
    if size == 1:
        return None
    return replace(
        how,
        micro_batch_size=size // parts,
        gradient_accumulation_steps=how.gradient_accumulation_steps * parts,
    )


def check_processes(launch: LaunchSettings) -> None:
    """Refuse to train alone what mvc.toml wants trained by several: a step would be another one.

    Raises:
        ConfigError: [launch] asks for more than one process.
    """
    if launch.nproc * launch.nnodes > 1:
        raise ConfigError(
            f"[launch] asks for {launch.nproc * launch.nnodes} processes, and `mvc watch` trains "
            "with one",
            "set launch.nproc = 1 and launch.nnodes = 1 in mvc.toml, or train each file with "
            "`mvc train FILE`",
        )


def room(folder: Path, min_free_gb: float) -> str | None:
    """Why there is too little disk to go on, in words; None where there is enough."""
    free = shutil.disk_usage(folder).free
    if free >= min_free_gb * 1e9:
        return None
    return f"{free / 1e9:.1f} GB of disk are free, watch.min_free_gb asks for {min_free_gb:g}"
