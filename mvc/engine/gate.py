"""The held-out gate: what a batch did to rows that it was not trained on.

Owns the metric and the verdict. Measuring draws nothing and changes nothing: a line with a gate
has the bits of one without.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mvc.engine import files, ranks, rng, rows, state
from mvc.errors import ConfigError, DataError, Worsened
from mvc.settings import TrainSettings
from mvc.types import Gate

if TYPE_CHECKING:
    from mvc.engine.checkpoint import Manifest
    from mvc.engine.session import Session
    from mvc.engine.train import Job
    from mvc.engine.trainer import BatchTrainer

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


class GateJob(msgspec.Struct, frozen=True):
    """[gate] for one batch. `md5` is the file's at `data`; `before` the parent's value, if known.

    `key` is what values are compared under (`key`).
    """

    data: str
    md5: str
    key: str
    metric: Literal["loss", "perplexity"]
    bound: float
    before: float | None = None


def key(md5: str, train: TrainSettings) -> str:
    """What makes two values comparable: the file's content, and all that makes rows of it."""
    how = (md5, train.max_length, train.packing, train.assistant_only, train.precision)
    return hashlib.md5(msgspec.json.encode(how), usedforsecurity=False).hexdigest()


def loss(
    trainer: BatchTrainer, collator: Collator, held_out: rows.Rows, micro_batch_size: int
) -> float:
    """The mean loss of a trained token over all rows, in nats.

    Every rank measures the whole on its own; rank 0's value is everybody's, so that all of them
    come to one verdict.
    """
    import torch

    model, device = trainer.model, trainer.accelerator.device
    data = rows.dataset(held_out, range(held_out.num_sequences))
    total, count = 0.0, 0
    random_state = rng.capture(ranks.world_size())
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        for start in range(0, len(data), micro_batch_size):
            some = range(start, min(start + micro_batch_size, len(data)))
            inputs = collator([data[i] for i in some])
            # A row's first token is predicted from nothing: the model shifts the labels.
            predicted = int((inputs["labels"][:, 1:] != rows.IGNORED).sum())
            found = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
            total, count = total + found.loss.item() * predicted, count + predicted
    model.train()
    rng.restore(random_state)
    return ranks.gather(total / count)[0]


@dataclass
class HeldOut:
    """A batch's gate: the held-out rows, with the metric before and after the batch."""

    job: GateJob
    rows: rows.Rows
    collator: Collator
    before: Gate | None = None
    after: Gate | None = None

    def __post_init__(self) -> None:
        if self.job.before is not None:
            self.before = self._gate(self.job.before)

    def fits(self, manifest: Manifest) -> bool:
        """Whether the values in a checkpoint were measured by this gate."""
        return _same(manifest.gate, self._gate(0.0)) and manifest.gate_before is not None

    def resume(self, manifest: Manifest) -> None:
        """Take over what was measured before the checkpoint was written."""
        if _same(manifest.gate_before, self._gate(0.0)):
            self.before, self.after = manifest.gate_before, manifest.gate

    def begin(self, trainer: BatchTrainer, parent: Path, source: Path) -> None:
        """Measure what is not known: the state in `parent`, also where `source` is gone on from.

        Raises:
            ConfigError: the state before the batch has no finite value.
        """
        if self.before is not None:
            return
        if parent != source:
            state.check_adapter(parent, trainer.model)
            state.load_adapter(parent, trainer.model)
        self.before = self._measured(trainer)
        if parent != source:
            state.load_adapter(source, trainer.model)
        if not math.isfinite(self.before.value):
            raise ConfigError(
                f"gate.data: the {self.job.metric} on {self._name} is {self.before.value} before "
                "any step of the batch",
                "name another file as gate.data in mvc.toml, or empty it for no gate",
            )

    def finish(self, trainer: BatchTrainer, batch: str) -> None:
        """Measure the trained batch, and judge it."""
        self.after = self._measured(trainer)
        self.judge(batch)

    def judge(self, batch: str) -> None:
        """Refuse a batch (its name) that worsened the metric by more than the bound.

        Raises:
            Worsened: it did.
        """
        if self.before is None or self.after is None:
            return
        before, after, job = self.before.value, self.after.value, self.job
        if after - before <= job.bound:  # not so where it is no number
            return
        raise Worsened(
            f"{batch} worsened the {job.metric} on {self._name} from {before:.4g} to {after:.4g}, "
            f"by more than gate.bound = {job.bound:g}",
            "nothing was recorded; look at the rows with `mvc train --dry-run --dump rows.jsonl "
            "FILE`, lower train.learning_rate, or raise gate.bound in mvc.toml",
        )

    @property
    def _name(self) -> str:
        return Path(self.job.data).name

    def _gate(self, value: float) -> Gate:
        return Gate(self.job.metric, value, self.job.key)

    def _measured(self, trainer: BatchTrainer) -> Gate:
        found = loss(trainer, self.collator, self.rows, trainer.batch.train.micro_batch_size)
        return self._gate(found if self.job.metric == "loss" else _exp(found))


def hold_out(job: Job, session: Session, collator: Collator) -> HeldOut | None:
    """The gate of a batch, its rows read; None without one.

    Raises:
        ConfigError: the held-out file cannot be rows, or is no longer the one that was named.
    """
    if job.gate is None:
        return None
    path = Path(job.gate.data)
    try:
        found = session.rows(job.settings, Path(job.state), path, job.gate.md5)
        changed = files.identify(path).md5 != job.gate.md5
    except DataError as error:
        raise ConfigError(
            f"gate.data in mvc.toml: {error.message}",
            "mend the file, name another one, or empty gate.data for no gate",
        ) from error
    if changed:
        session.forget(job.gate.md5)
        raise ConfigError(
            f"gate.data in mvc.toml: {path.name} changed while it was read",
            "run `mvc train` again when nothing writes to it",
        )
    return HeldOut(job.gate, found, collator)


def _same(one: Gate | None, other: Gate) -> bool:
    return one is not None and (one.metric, one.md5) == (other.metric, other.md5)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
