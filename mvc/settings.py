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
    """[base]: the frozen model. `digest` is written by `mvc init` and checked at every load.

    With `quantization = "nf4"` it is held in 4 bits (QLoRA) while training.
    """

    model: str
    revision: str = ""
    digest: str = ""
    quantization: Literal["", "nf4"] = ""


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

    An empty `zone` is the machine's own. `push` names the remote that `mvc watch` pushes to after
    it; with `gc` it then applies [keep].
    """

    at: str = "03:00"
    zone: str = ""
    push: str = ""
    gc: bool = False


class WatchSettings(Table, frozen=True):
    """[watch]: what `mvc watch` makes of the files that arrive.

    `settle_seconds` is how long a file that was not renamed into place must rest. Files of fewer
    than `min_steps` steps are joined, files of more than `max_steps` are split; 0: neither. A
    small file waits `join_seconds` for others at most.
    `explode` refuses a batch whose loss ends above that multiple of both its own beginning and
    the line's last batches; 0: never. Below `min_free_gb` (1e9 bytes) it pauses.
    """

    order: Literal["completed", "name"] = "completed"
    settle_seconds: NonNegative = 5.0
    min_steps: Count = 0
    max_steps: Count = 0
    join_seconds: NonNegative = 3600.0
    explode: NonNegative = 2.0
    min_free_gb: NonNegative = 5.0


class GateSettings(Table, frozen=True):
    """[gate]: a held-out file that each trained batch is measured on; empty `data`: none.

    A batch that worsens `metric` by more than `bound` (in the metric's own unit) is refused.
    """

    data: str = ""
    metric: Literal["loss", "perplexity"] = "loss"
    bound: NonNegative = 0.1


class LaunchSettings(Table, frozen=True):
    """[launch]: the processes that `mvc train` trains a batch with.

    `nproc` on each of `nnodes` machines, which meet at `rdzv_endpoint` (HOST:PORT of machine 0,
    where the repo is). `fsdp` is an accelerate config file, from the repo's folder on; empty: DDP.
    """

    nproc: Positive = 1
    nnodes: Positive = 1
    rdzv_endpoint: str = ""
    fsdp: str = ""


class KeepRules(Table, frozen=True):
    """Retention in restic's terms: the newest commit of each of so many hours, days...

    `within` is a duration such as "7d12h" back from the newest commit. All at 0: no rule.
    """

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    yearly: Count = 0
    within: str = ""


class ThinSettings(KeepRules, frozen=True):
    """[thin]: which commits keep their adapter and give up their moments."""


class KeepSettings(KeepRules, frozen=True):
    """[keep]: which commits keep their whole state; without any rule `mvc gc` deletes nothing.

    `tags` are patterns (fnmatch) of tag names whose commits keep their whole state; every tag
    keeps at least its adapter, and so does every snapshot. Deleted objects rest in the trash for
    `trash` days; the states before the last `undo` operations are kept for `mvc undo`.
    """

    snapshots: bool = True
    tags: list[str] = msgspec.field(default_factory=lambda: ["*"])
    trash: Count = 7
    undo: Count = 10


class Settings(Table, frozen=True):
    """The whole of mvc.toml."""

    base: BaseSettings
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    watch: WatchSettings = WatchSettings()
    gate: GateSettings = GateSettings()
    launch: LaunchSettings = LaunchSettings()
    keep: KeepSettings = KeepSettings()
    thin: ThinSettings = ThinSettings()
