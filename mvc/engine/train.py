"""Training one batch: the Trainer, continued exactly where the last batch stopped.

Owns the order of things that makes N batches in N processes equal one uninterrupted run bit for
bit (DESIGN.md, Fixed 1); figures, checkpoints and checks are `batch`'s. Knows nothing of git or
DVC: it reads a state from one folder and leaves the next one in another.

How exactness is reached:
- rows come in an explicit order; the Trainer samples sequentially, one epoch; passes are repeats;
- no `resume_from_checkpoint`: the adapter is loaded trainable, schedule and moments in
  `create_scheduler`, after the scheduler's constructor has reset the groups' rate;
- the random state is restored in the first `on_step_begin`, because iterating a DataLoader draws
  from the global generator first; a first batch starts from the seed, as any Trainer does;
- a checkpoint resumes by slicing the row order at its step: the same path as a batch's start.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mvc.engine import checkpoint, rows, schedule
from mvc.engine.batch import Batch, Settle
from mvc.engine.gate import Collator, GateJob, hold_out
from mvc.engine.quiet import quiet
from mvc.engine.session import Session
from mvc.errors import DiskFull, EngineError, OutOfMemory
from mvc.settings import Settings
from mvc.stopping import at_once
from mvc.types import SILENT, Progress, ShouldStop, TrainResult, never_stop

GO_ON = "the same `mvc train` goes on from the last checkpoint; `mvc --debug train` shows more"


class Job(msgspec.Struct, frozen=True):
    """Everything that decides one batch's bits, as plain values (a worker reads it from JSON).

    `data` is a private copy of the batch's file or folder, `state` the folder of the state to go
    on from, `run` the folder for checkpoints. `lifetime_step` counts the steps done before this
    batch; at 0 the state has no moments yet. `adapter_md5` is the stored adapter's hash, `nproc`
    the number of processes on all `nnodes` machines, which decides what a step is. `allowed` is as
    in `Session`. `gate` decides no bits, only whether they are kept. `fsdp` is accelerate's
    configuration of it, for bases that one device does not hold.
    """

    settings: Settings
    root: str
    data: str
    data_name: str
    data_md5: str
    state: str
    run: str
    parent: str
    lifetime_step: int
    adapter_md5: str
    nproc: int = 1
    nnodes: int = 1
    allowed: str = ""
    gate: GateJob | None = None
    fsdp: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """What a checkpoint of this batch belongs to."""
        how = replace(self.settings.train, checkpoint_steps=0)
        shape = msgspec.json.encode((self.settings.base.digest, self.settings.lora, how)).decode()
        parts = [self.parent, self.data_md5, self.adapter_md5, str(self.nproc), shape]
        parts += [msgspec.json.encode(self.fsdp).decode()] if self.fsdp else []
        return checkpoint.batch_key(parts)


def run(
    job: Job,
    session: Session,
    progress: Progress = SILENT,
    should_stop: ShouldStop = never_stop,
) -> TrainResult:
    """Train one batch, from its last whole checkpoint where there is one.

    Returns:
        The new state under `job.run`, hashed, with its curve and figures (on rank 0; other ranks
        return the same figures without files).

    Raises:
        DataError: the file cannot be a batch.
        ScheduleEnded: the schedule has no steps left for this batch.
        StateError: the stored state does not fit the model.
        ConfigError: the held-out file of [gate] cannot be measured on.
        TrainingFailed: the batch did not learn, or worsened the held-out file; nothing of it is
            to be kept.
        OutOfMemory: the micro-batch does not fit the device.
        Interrupted: `should_stop` answered yes; a checkpoint is written.
        DiskFull: no room for a checkpoint or the new state.
    """
    batch = steps(job, session, progress, should_stop)
    return batch.result()


def steps(
    job: Job,
    session: Session,
    progress: Progress = SILENT,
    should_stop: ShouldStop = never_stop,
    *,
    warm: bool = False,
    hold: bool = False,
    settle: Settle | None = None,
) -> Batch:
    """Run the steps of one batch; `run` without the figures, and with two more ways.

    Args:
        job: the batch; with `settle` its parent may not be known yet.
        session: keeps the base, and with `hold` the adapter and moments too.
        progress: hears of phases, steps and notes.
        should_stop: asked after every step.
        warm: go on from what `session` holds of the batch before, instead of from `job.state`.
        hold: leave the new state in memory (`Batch.held`) for a writer in another thread.
        settle: tells the job as it is when its parent is committed.

    Raises:
        As `run`.
    """
    from mvc.engine.trainer import build

    with ExitStack() as early:
        if job.nproc == 1:  # the other ranks would wait for this one
            early.enter_context(at_once())
        batch, collator = _prepare(job, session, progress, should_stop, warm, hold, settle)
        if batch.done < batch.num_steps:
            progress.stage("Loading the model")
            try:
                with (
                    quiet(),
                    _foreign_errors(job),
                    session.adapter(
                        job.settings,
                        batch.source,
                        warm=warm,
                        hold=hold,
                        spread=job.fsdp is not None,
                    ) as model,
                ):
                    trainer = build(batch, model, collator)
                    if batch.gate:
                        batch.gate.begin(trainer, Path(job.state), batch.source)
                    progress.start(job.data_name, batch.num_steps, batch.done)
                    batch.started = time.monotonic()  # loading is no part of the pace
                    early.close()
                    trainer.train()
                    batch.finish(trainer)
                    if hold:
                        session.warm = trainer.warm()
            finally:
                progress.stop()
    batch.verify()
    return batch


def _prepare(
    job: Job,
    session: Session,
    progress: Progress,
    should_stop: ShouldStop,
    warm: bool,
    hold: bool,
    settle: Settle | None,
) -> tuple[Batch, Collator]:
    """The batch as it stands before the model is there, from its newest checkpoint if it has one.

    Raises:
        As `run`.
    """
    prepared = session.rows(job.settings, Path(job.state), Path(job.data), job.data_md5)
    tokenizer = session.tokenizer(job.settings, Path(job.state))
    collator = rows.collator(tokenizer, prepared.seq_lengths is not None)
    batch = Batch(
        job, prepared, progress, should_stop, hold=hold, settle=settle, spare=session.spare
    )
    batch.gate = hold_out(job, session, collator)
    schedule.check(job.settings.train, job.lifetime_step, batch.num_steps)
    if warm:
        batch.warm = session.warm
    elif (resumed := checkpoint.newest(batch.checkpoints, job.key)) and batch.can_resume(resumed):
        batch.resume(resumed)
    batch.tell_losses()
    batch.check_ranks()
    return batch, collator


@contextmanager
def _foreign_errors(job: Job) -> Iterator[None]:
    """Turn what torch and the disk raise into errors that say what to do."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        size = job.settings.train.micro_batch_size
        raise OutOfMemory(
            f"the device ran out of memory with micro-batches of {size} rows",
            f"set train.micro_batch_size = {max(size // 2, 1)} and twice the "
            "train.gradient_accumulation_steps in mvc.toml (the same global batch), or "
            "train.gradient_checkpointing = true",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk is full; {job.data_name} could not be saved and the old state is whole",
                "free some space, then run the same `mvc train` again",
            ) from error
        raise
    except RuntimeError as error:
        raise EngineError(
            f"training of {job.data_name} broke off: {error}",
            GO_ON if job.nproc > 1 else "run again with `mvc --debug train ...` to see where",
        ) from error
