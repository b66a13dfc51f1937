"""What mvc.toml means: one struct a table, with the defaults a practitioner would choose.

Floor 0. Reading and writing the file is `store/config.py`'s; this module owns names, types,
defaults and bounds, checked by msgspec when the file is decoded.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
NonNegative = Annotated[float, Meta(ge=0)]

UNBOUNDED_SCHEDULES = ("constant", "constant_with_warmup", "inverse_sqrt")
HORIZON_SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "warmup_stable_decay",
)
Optimizer = Literal["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"]
"""Those whose whole memory is per-parameter state, proven to go on to the bit.

Others keep some of it in their groups (schedulefree's `k` and `weight_sum`) and would begin anew
in every batch without a word.
"""
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "warmup_stable_decay",
]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of mvc.toml: unknown keys are errors."""


class BaseSettings(Table, frozen=True):
    """[base]: the frozen model. `digest` is written by `mvc init` and checked at every load."""

    model: str
    revision: str = ""
    digest: str = ""


class LoraSettings(Table, frozen=True):
    """[lora]: the adapter's shape, fixed for the life of a line.

    `target_modules` is PEFT's: "all-linear", or a list of module names.
    """

    r: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.0
    target_modules: str | list[str] = "all-linear"
    modules_to_save: list[str] = []
    use_dora: bool = False
    use_rslora: bool = False


class TrainSettings(Table, frozen=True):
    """[train]: how a batch is trained; a change takes effect in the next batch.

    `optimizer` is a name of transformers' `OptimizerNames`; `optimizer_args` its `optim_args`
    ("momentum=0.9"); `schedule` is a name of transformers' `SchedulerType`, `schedule_args` its
    keyword arguments. `warmup_steps` and `horizon_steps` count optimizer steps: over the line's
    life with `schedule_scope = "lifetime"`, inside each batch with `"batch"`.
    `checkpoint_steps = 0` writes no recovery point inside a batch.
    """

    learning_rate: Annotated[float, Meta(gt=0)] = 2e-4
    schedule: Schedule = "constant_with_warmup"
    schedule_scope: Literal["lifetime", "batch"] = "lifetime"
    schedule_args: dict[str, int | float | str] = {}
    warmup_steps: Count = 20
    horizon_steps: Count = 0
    optimizer: Optimizer = "adamw_torch_fused"
    optimizer_args: str = ""
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    micro_batch_size: Positive = 4
    gradient_accumulation_steps: Positive = 1
    passes: Positive = 1
    max_length: Annotated[int, Meta(ge=8)] = 1024
    packing: bool = True
    shuffle: bool = True
    assistant_only: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 42
    logging_steps: Positive = 1
    checkpoint_steps: Count = 50


class SnapshotSettings(Table, frozen=True):
    """[snapshot]: when a day is pinned (HH:MM or a cron expression) and in which zone.

    An empty `zone` is the machine's own.
    """

    at: str = "03:00"
    zone: str = ""


class Settings(Table, frozen=True):
    """The whole of mvc.toml."""

    base: BaseSettings
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
