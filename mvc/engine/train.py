"""Training one batch: the Trainer, continued exactly where the last batch stopped.

Owns the order of things that makes N batches in N processes equal one uninterrupted run bit for
bit (DESIGN.md, Fixed 1), the checkpoints inside a batch, and the checks that refuse a batch which
did not learn (Fixed 2). Knows nothing of git or DVC: it reads a state from one folder and leaves
the next one in another.

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
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mvc.engine import base as bases
from mvc.engine import checkpoint, environment, ranks, rows, schedule, state
from mvc.engine.quiet import quiet
from mvc.engine.session import Session
from mvc.errors import DiskFull, EngineError, Interrupted, OutOfMemory, TrainingFailed
from mvc.settings import Settings
from mvc.types import (
    SILENT,
    CurvePoint,
    Progress,
    ShouldStop,
    StepReport,
    TrainResult,
    never_stop,
)

if TYPE_CHECKING:
    from mvc.engine.trainer import BatchTrainer


class Job(msgspec.Struct, frozen=True):
    """Everything that decides one batch's bits, as plain values (a worker reads it from JSON).

    `data` is a private copy of the batch's file or folder, `state` the folder of the state to go
    on from, `run` the folder for checkpoints. `lifetime_step` counts the steps done before this
    batch; at 0 the state has no moments yet. `adapter_md5` is the stored adapter's hash, `nproc`
    the number of processes, which decides what a step is.
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

    @property
    def key(self) -> str:
        """What a checkpoint of this batch belongs to."""
        how = msgspec.structs.replace(self.settings.train, checkpoint_steps=0)
        shape = msgspec.json.encode((self.settings.base.digest, self.settings.lora, how)).decode()
        return checkpoint.batch_key(
            [self.parent, self.data_md5, self.adapter_md5, str(self.nproc), shape]
        )


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
        TrainingFailed: the batch did not learn; nothing of it is to be kept.
        OutOfMemory: the micro-batch does not fit the device.
        Interrupted: `should_stop` answered yes; a checkpoint is written.
        DiskFull: no room for a checkpoint or the new state.
    """
    from mvc.engine.trainer import build

    prepared = session.rows(job.settings, Path(job.state), Path(job.data), job.data_md5)
    tokenizer = session.tokenizer(job.settings, Path(job.state))
    collator = rows.collator(tokenizer, prepared.seq_lengths is not None)
    batch = Batch(job, prepared, progress, should_stop)
    schedule.check(job.settings.train, job.lifetime_step, batch.num_steps)
    resumed = checkpoint.newest(batch.checkpoints, job.key)
    if resumed:
        batch.resume(resumed)
    batch.tell_losses()
    if batch.done < batch.num_steps:
        progress.stage("Loading the model")
        try:
            with (
                quiet(),
                _foreign_errors(job),
                session.adapter(job.settings, batch.source) as model,
            ):
                trainer = build(batch, model, collator)
                progress.start(job.data_name, batch.num_steps, batch.done)
                batch.started = time.monotonic()  # loading is no part of the pace
                trainer.train()
                batch.finish(trainer)
        finally:
            progress.stop()
    batch.verify()
    return batch.result()


@dataclass
class Batch:
    """The batch in progress: what was run, what was logged, where the state lies."""

    job: Job
    rows: rows.Rows
    progress: Progress
    should_stop: ShouldStop
    curve: list[CurvePoint] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: int = 0
    tokens: int = 0
    seconds_before: float = 0.0
    last: checkpoint.Checkpoint | None = None

    def __post_init__(self) -> None:
        self.train = self.job.settings.train
        self.world_size, self.rank = ranks.world_size(), ranks.rank()
        order = rows.order(self.rows, self.train, self.job.data_md5)
        self.order = ranks.even(order, self.train.micro_batch_size, self.world_size)
        self.num_steps = rows.num_steps(len(self.order), self.train, self.world_size)
        self.rows_per_step = (
            self.train.micro_batch_size * self.train.gradient_accumulation_steps * self.world_size
        )
        self.lengths = [len(self.rows.input_ids[i]) for i in self.order]
        self.started = time.monotonic()
        self.resumed_at = self.tokens_at_resume = 0

    @property
    def checkpoints(self) -> Path:
        """Where this batch's checkpoints lie."""
        return Path(self.job.run) / "checkpoints"

    @property
    def source(self) -> Path:
        """Where training goes on from: the newest checkpoint, or the state."""
        return self.last.folder if self.last else Path(self.job.state)

    @property
    def lifetime_step(self) -> int:
        """Steps done on the line so far, this batch's included."""
        return self.job.lifetime_step + self.done

    @property
    def seconds(self) -> float:
        """Seconds spent on this batch, in earlier processes too."""
        return self.seconds_before + time.monotonic() - self.started

    def resume(self, found: checkpoint.Checkpoint) -> None:
        """Stand where the checkpoint was written."""
        manifest = found.manifest
        self.last = found
        self.done = self.resumed_at = manifest.step
        self.curve, self.pending = list(manifest.curve), list(manifest.pending)
        self.tokens, self.seconds_before = manifest.tokens, manifest.seconds
        self.tokens_at_resume = manifest.tokens
        self.warnings = list(manifest.warnings)
        self.progress.note(
            f"resuming {self.job.data_name} at step {self.done} of {self.num_steps}, "
            "from its checkpoint"
        )

    def restore_rng(self) -> None:
        """Set the random state of this rank, before the first step draws from it."""
        if self.lifetime_step == 0:
            return
        path = self.source / state.rng_name(self.rank, self.world_size)
        if path.is_file():
            if not state.restore_rng(state.load_torch(path)):
                self.warn("the stored random state has none for this GPU; it was seeded anew")
            return
        # Another number of processes than last time: seeded by step and rank, and said aloud.
        from transformers import set_seed

        set_seed((self.train.seed + self.lifetime_step * 1009 + self.rank) % 2**31)
        self.warn(
            f"random state seeded anew for {self.world_size} processes (the last batch ran with "
            "another number)"
        )

    def warn(self, text: str) -> None:
        """Tell the user, and let the commit tell it too."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.progress.note(text)

    def tell_losses(self) -> None:
        """Say what `max_length` did: no record that was not trained may look trained."""
        found, size = self.rows, self.train.max_length
        for number, fate in (
            (found.num_dropped, "had nothing to train within {} tokens and were left out"),
            (found.num_truncated - found.num_dropped, "were cut off at {} tokens"),
        ):
            if number > 0:
                self.warn(f"{number} of {found.num_records} records {fate.format(size)}")
        if found.num_split:
            text = f"{found.num_split} of {found.num_records} records were split at {size} tokens"
            self.progress.note(f"{text} (none is lost)")

    def record(self, trainer: BatchTrainer, logs: dict[str, float]) -> None:
        """One optimizer step is done: check it, log it, and write a checkpoint if one is due."""
        loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss of {self.job.data_name} became {loss}"
            if math.isfinite(loss):
                what = f"gradient of {self.job.data_name} became {norm}"
            raise TrainingFailed(
                f"the {what} at step {self.done + 1}",
                "look for broken rows with `mvc train --dry-run --dump rows.jsonl FILE`, or lower "
                "train.learning_rate in mvc.toml"
                + ("; at a batch's first step, `mvc rollback` the one before" * (not self.done)),
            )
        begin = self.done * self.rows_per_step
        self.tokens += sum(self.lengths[begin : begin + self.rows_per_step])
        self.done += 1
        self.pending.append(loss)
        final = self.done == self.num_steps
        if final or self.done % self.train.logging_steps == 0:
            self._log(logs)
        stop = ranks.agree(self.should_stop())
        due = self.train.checkpoint_steps and self.done % self.train.checkpoint_steps == 0
        if final:
            return
        if stop or due:
            self.write(trainer)
        if stop:
            raise Interrupted(
                f"stopped after step {self.done} of {self.num_steps} of {self.job.data_name}",
                f"`mvc train {self.job.data_name}` goes on from there",
            )

    def _log(self, logs: dict[str, float]) -> None:
        point = CurvePoint(
            step=self.done,
            lifetime_step=self.lifetime_step,
            loss=sum(self.pending) / len(self.pending),
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
        )
        self.pending = []
        self.curve.append(point)
        seconds = time.monotonic() - self.started
        steps = self.done - self.resumed_at
        self.progress.step(
            StepReport(
                point=point,
                num_steps=self.num_steps,
                tokens_per_s=(self.tokens - self.tokens_at_resume) / max(seconds, 1e-9),
                memory_bytes=environment.peak_memory_bytes(),
                seconds_left=seconds / steps * (self.num_steps - self.done),
            )
        )

    def write(self, trainer: BatchTrainer) -> None:
        """Write a checkpoint of this step; every rank its random state, rank 0 the rest."""
        folder = self.checkpoints / f"tmp-checkpoint-{self.done}"
        if self.rank == 0:
            checkpoint.begin(self.checkpoints, self.done)
        ranks.barrier()
        rng = state.write_torch(
            folder,
            state.rng_name(self.rank, self.world_size),
            state.capture_rng(self.world_size),
        )
        digests = ranks.gather(rng)
        if self.rank == 0:
            digests += trainer.write_state(folder)
            self.last = checkpoint.finish(
                folder,
                checkpoint.Manifest(
                    step=self.done,
                    key=self.job.key,
                    files=tuple(sorted(digests, key=lambda d: d.path)),
                    curve=tuple(self.curve),
                    pending=tuple(self.pending),
                    tokens=self.tokens,
                    seconds=self.seconds,
                    peak_memory_bytes=environment.peak_memory_bytes(),
                    warnings=tuple(self.warnings),
                ),
            )
            if self.done < self.num_steps:
                checkpoint.drop_older(self.checkpoints, self.done)
        ranks.barrier()

    def finish(self, trainer: BatchTrainer) -> None:
        """The last step is done: write the batch's state."""
        if self.done == self.num_steps:
            trainer.check_moments(self.done - self.resumed_at)
            trainer.check_finite()
            self.write(trainer)

    def verify(self) -> None:
        """Refuse a batch that did not learn (DESIGN.md, Fixed 2)."""
        job = self.job
        if self.done != self.num_steps or self.num_steps == 0:
            raise did_not_learn(job, f"{self.done} of {self.num_steps} steps were run")
        if not any(point.learning_rate > 0 for point in self.curve):
            raise did_not_learn(job, "the learning rate was 0 at every step")
        if self.rank == 0 and self.last:
            adapter = next(d for d in self.last.manifest.files if d.path == state.ADAPTER)
            if adapter.md5 == job.adapter_md5:
                raise did_not_learn(job, "not one weight of the adapter changed")

    def result(self) -> TrainResult:
        """What the batch became."""
        manifest = self.last.manifest if self.last else None
        dtype = bases.precision_dtype(self.train.precision)
        return TrainResult(
            state_dir=self.source,
            files=manifest.files if manifest else (),
            curve=tuple(self.curve),
            num_rows=self.rows.num_records,
            num_steps=self.num_steps,
            lifetime_step=self.job.lifetime_step + self.num_steps,
            num_tokens=self.tokens,
            seconds=manifest.seconds if manifest else self.seconds,
            peak_memory_bytes=environment.peak_memory_bytes(),
            environment=environment.describe(dtype, self.world_size),
            warnings=tuple(self.warnings),
        )


def did_not_learn(job: Job, why: str) -> TrainingFailed:
    """The error of a batch that ran and changed nothing."""
    return TrainingFailed(
        f"{job.data_name} did not train: {why}",
        "nothing was recorded; look at [train] in mvc.toml (learning_rate, schedule) and at the "
        "rows with `mvc train --dry-run --dump rows.jsonl FILE`",
    )


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
            "run again with `mvc --debug train ...` to see where",
        ) from error
