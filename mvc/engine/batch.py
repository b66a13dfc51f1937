"""The batch in progress: what was run, what was logged, where its state lies.

Owns the figures of one batch, its checkpoints, and the checks that refuse a batch which did not
learn (DESIGN.md, Fixed 2). The order of things around it is `train`'s, the steps are `trainer`'s.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from mvc.engine import base as bases
from mvc.engine import checkpoint, environment, live, ranks, rng, rows, state
from mvc.errors import Interrupted, TrainingFailed
from mvc.types import CurvePoint, Gate, Progress, ShouldStop, StepReport, TrainResult

if TYPE_CHECKING:
    from mvc.engine.gate import HeldOut
    from mvc.engine.session import Warm
    from mvc.engine.train import Job
    from mvc.engine.trainer import BatchTrainer


Settle = Callable[[bool], "Job | None"]


@dataclass
class Batch:
    """The batch in progress: what was run, what was logged, where the state lies.

    `warm` is the state in memory that it goes on from, instead of files. With `hold` its own
    state stays in memory too (`held`), for `write_held` to write while the next batch trains.
    `settle` tells the job as it is once its parent is committed (None: not yet; True: wait).
    `spare` is the session's.
    """

    job: Job
    rows: rows.Rows
    progress: Progress
    should_stop: ShouldStop
    warm: Warm | None = None
    hold: bool = False
    settle: Settle | None = None
    gate: HeldOut | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: int = 0
    tokens: int = 0
    seconds_before: float = 0.0
    last: checkpoint.Checkpoint | None = None
    held: tuple[live.Clone, dict[str, Any]] | None = None
    spare: deque[live.LiveState] = field(default_factory=deque)
    owed: bool = False
    ended: float = 0.0

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

    @property
    def measured(self) -> Gate | None:
        """The held-out file's metric after the last step; None without a gate."""
        return self.gate.after if self.gate else None

    def can_resume(self, found: checkpoint.Checkpoint) -> bool:
        """Whether a checkpoint will do: that of the last step only if this gate measured it."""
        whole = found.manifest.step == self.num_steps
        return not whole or self.gate is None or self.gate.fits(found.manifest)

    def resume(self, found: checkpoint.Checkpoint) -> None:
        """Stand where the checkpoint was written."""
        manifest = found.manifest
        self.last = found
        self.done = self.resumed_at = manifest.step
        self.curve, self.pending = list(manifest.curve), list(manifest.pending)
        self.tokens, self.seconds_before = manifest.tokens, manifest.seconds
        self.tokens_at_resume = manifest.tokens
        self.warnings = list(manifest.warnings)
        if self.gate:
            self.gate.resume(manifest)
        self.progress.note(
            f"resuming {self.job.data_name} at step {self.done} of {self.num_steps}, "
            "from its checkpoint"
        )

    def _seed(self) -> int:
        """A seed of this step and rank."""
        return (self.train.seed + self.lifetime_step * 1009 + self.rank) % 2**31

    def restore_rng(self) -> None:
        """Set the random state of this rank, before the first step draws from it."""
        if self.lifetime_step == 0:
            return
        path = self.source / rng.file_name(self.rank, self.world_size)
        stored = len(list(self.source.glob("rng_state*.pth")))
        if self.warm or (path.is_file() and stored == self.world_size):
            if not rng.restore(self.warm.rng if self.warm else state.load_torch(path)):
                import torch

                # Else each rank would go on with the seed that the Trainer gives to all of them.
                torch.cuda.manual_seed(self._seed())
                self.warn("the stored random state has none for this GPU; it was seeded anew")
            return
        # Another number of processes than last time: seeded by step and rank, and said aloud.
        from transformers import set_seed

        set_seed(self._seed())
        self.warn(
            f"random state seeded anew for {self.world_size} processes (the state before has it "
            f"for {stored})"
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

    def check_ranks(self) -> None:
        """Refuse ranks that would not train the same: other versions, rows or recovery points.

        Raises:
            EngineError: on every rank.
        """
        if self.world_size == 1:
            return
        dtype = bases.precision_dtype(self.train.precision)
        here = environment.describe(dtype, self.world_size)
        rows = msgspec.json.encode((self.rows.input_ids, self.rows.labels, self.order))
        ranks.check_same(
            {name: here[name] for name in (*environment.PACKAGES, "mvc", "dtype")}
            | {"rows": hashlib.md5(rows, usedforsecurity=False).hexdigest(), "step": self.done}
        )

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
        if (stop or due or self.owed) and self._settled(wait=stop):
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

    def _settled(self, *, wait: bool) -> bool:
        """Whether the parent is committed: before that a checkpoint would belong to nothing."""
        if self.settle is not None:
            found = self.settle(wait)
            self.owed = found is None
            if found is None:
                return False
            self.job = found
        return True

    def write(self, trainer: BatchTrainer) -> None:
        """Write a checkpoint of this step, with the random state of every rank."""
        self._write(self._taken(trainer), rng.capture(self.world_size))

    def _taken(self, trainer: BatchTrainer) -> live.LiveState | None:
        """The state where this rank has to do with it: under FSDP each holds a part of it."""
        return live.take(trainer) if self.rank == 0 or self.job.fsdp else None

    def write_held(self) -> None:
        """Write the state that was held in memory, as the checkpoint of the last step.

        Raises:
            TrainingFailed: it is not finite, or did not change.
            DiskFull: no room for it.
        """
        assert self.held is not None
        taken, random_state = self.held[0].result(), self.held[1]
        taken.check_finite(self.job.data_name)
        self._write(taken, random_state)
        self.held = None
        self.spare.append(taken)

    def _write(self, taken: live.LiveState | None, random_state: dict[str, Any]) -> None:
        # The others may be on other machines; as the bytes of their files, so that none is
        # unpickled that came off the network.
        random_states = ranks.gather(state.torch_bytes(random_state))
        if self.rank == 0 and taken is not None:
            folder = checkpoint.begin(self.checkpoints, self.done)
            digests = [
                state.write_bytes(folder, rng.file_name(rank, self.world_size), each)
                for rank, each in enumerate(random_states)
            ]
            digests += taken.write(folder)
            size = self.train.micro_batch_size
            digests.append(state.write_trainer_state(folder, self.curve, self.num_steps, size))
            self.last = checkpoint.finish(
                folder,
                checkpoint.Manifest(
                    step=self.done,
                    key=self.job.key,
                    files=tuple(sorted(digests, key=lambda d: d.path)),
                    curve=tuple(self.curve),
                    pending=tuple(self.pending),
                    tokens=self.tokens,
                    seconds=self.ended or self.seconds,
                    peak_memory_bytes=environment.peak_memory_bytes(),
                    warnings=tuple(self.warnings),
                    gate_before=self.gate.before if self.gate else None,
                    gate=self.measured,
                ),
            )
            if self.done < self.num_steps:
                checkpoint.drop_older(self.checkpoints, self.done)
        ranks.barrier()

    def move(self, folder: Path) -> None:
        """The batch's run folder is now `folder`."""
        self.job = replace(self.job, run=str(folder))
        if self.last:
            self.last = replace(self.last, folder=self.checkpoints / self.last.folder.name)

    def carried(self) -> live.Carried:
        """Files of the state that training does not change."""
        return self.warm.carried if self.warm else live.carried(Path(self.job.state))

    def finish(self, trainer: BatchTrainer) -> None:
        """The last step is done: keep the batch's state, on disk or in memory."""
        if self.done != self.num_steps:
            return
        trainer.check_moments(self.done - self.resumed_at)
        if self.gate:
            self.gate.finish(trainer, self.job.data_name)
        taken = live.take(trainer)
        if not self.hold:
            taken.check_finite(self.job.data_name)
            self._write(taken, rng.capture(self.world_size))
            return
        if self.settle is not None:  # one state in flight: the parent's goes to disk first
            self._settled(wait=True)
        self.ended = self.seconds
        spare = self.spare.pop() if self.spare else None
        self.held = (live.Clone(taken, spare), rng.capture(1))

    def verify(self) -> None:
        """Refuse a batch that did not learn (DESIGN.md, Fixed 2), or not what it should."""
        job = self.job
        if self.gate:
            self.gate.judge(job.data_name)
        if self.done != self.num_steps or self.num_steps == 0:
            raise did_not_learn(job, f"{self.done} of {self.num_steps} steps were run")
        if not any(point.learning_rate > 0 for point in self.curve):
            raise did_not_learn(job, "the learning rate was 0 at every step")
        if self.rank == 0 and self.last and self.last.manifest.step == self.num_steps:
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
            gate=self.measured,
        )


def did_not_learn(job: Job, why: str) -> TrainingFailed:
    """The error of a batch that ran and changed nothing."""
    return TrainingFailed(
        f"{job.data_name} did not train: {why}",
        "nothing was recorded; look at [train] in mvc.toml (learning_rate, schedule) and at the "
        "rows with `mvc train --dry-run --dump rows.jsonl FILE`",
    )
