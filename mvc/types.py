"""Frozen records that the floors pass on. Floor 0: imports nothing of mvc.

Sizes are bytes, durations seconds, times timezone-aware. A `step` inside a batch counts completed
optimizer steps (1 after the first); `lifetime_step` counts them over the whole line of commits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

Kind = Literal["init", "batch", "rollback", "import", "other"]
"""What a commit is; `import` is a state that another program trained, `other` is a commit that
mvc did not make."""


# --- files and pointers -------------------------------------------------------------------------


class FileDigest(msgspec.Struct, frozen=True):
    """One file of a stored folder, hashed while it was written.

    `path` is relative to its folder, with forward slashes; md5 is what DVC needs, sha256 what the
    commit's manifest pins.
    """

    path: str
    size_bytes: int
    md5: str
    sha256: str


class Pointer(msgspec.Struct, frozen=True):
    """DVC's pointer to a stored folder: the content of one `.dvc` file.

    `md5` ends in `.dir`; `meta` is mvc's own record (DVC keeps it untouched under `meta:`).
    """

    path: str
    md5: str
    size_bytes: int
    num_files: int
    meta: dict[str, Any] = {}


# --- a batch on its way -------------------------------------------------------------------------


class DataFile(msgspec.Struct, frozen=True):
    """A data file (or folder) that may become a batch, identified by its content."""

    path: Path
    name: str
    size_bytes: int
    md5: str


class BatchPlan(msgspec.Struct, frozen=True):
    """What a data file would be as a batch; what `mvc train --dry-run` reports.

    `num_rows` are records in the file, `num_sequences` the rows as trained (after splitting and
    packing, one pass), `num_tokens` their tokens in one pass, `num_trainable_tokens` those with a
    label, `num_truncated` and `num_split` the records over `max_length` and what became of them,
    `num_dropped` those of them that had nothing left to train,
    `num_steps` the optimizer steps over all passes.
    """

    data: DataFile
    num_rows: int
    num_sequences: int
    num_tokens: int
    num_trainable_tokens: int
    num_truncated: int
    num_split: int
    num_dropped: int
    num_steps: int
    passes: int
    max_length: int


class CurvePoint(msgspec.Struct, frozen=True):
    """One row of loss.csv. `learning_rate` is the rate that this step used."""

    step: int
    lifetime_step: int
    loss: float
    learning_rate: float
    grad_norm: float | None


class StepReport(msgspec.Struct, frozen=True):
    """What a progress display hears at each logging step."""

    point: CurvePoint
    num_steps: int
    tokens_per_s: float
    memory_bytes: int
    seconds_left: float


class Progress(Protocol):
    """How ops and engine report to whoever watches; `render` implements it."""

    def stage(self, text: str) -> None:
        """A phase that may take a while has begun ("Loading the base model")."""

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        """Training of batch `name` begins; `first_step` steps were done before a checkpoint."""

    def step(self, report: StepReport) -> None:
        """A logging step is done."""

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """`done_bytes` of a transfer ("Sending 12 objects") are there; the first call begins it."""

    def note(self, text: str) -> None:
        """A fact the user should read (a branch was started, a batch resumed, rows truncated)."""

    def stop(self) -> None:
        """The phase or training has ended, well or not; the display is taken down."""


class Silent:
    """A Progress that shows nothing."""

    def stage(self, text: str) -> None:
        """Show nothing."""

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        """Show nothing."""

    def step(self, report: StepReport) -> None:
        """Show nothing."""

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


SILENT: Progress = Silent()
ShouldStop = Callable[[], bool]


def never_stop() -> bool:
    """The default `should_stop`: nobody asks."""
    return False


class TrainResult(msgspec.Struct, frozen=True):
    """What the engine made of a batch: the new state, hashed, and its figures.

    `files` describe the state under `state_dir`. `tokens` counts trained tokens over all passes.
    """

    state_dir: Path
    files: tuple[FileDigest, ...]
    curve: tuple[CurvePoint, ...]
    num_rows: int
    num_steps: int
    lifetime_step: int
    num_tokens: int
    seconds: float
    peak_memory_bytes: int
    environment: dict[str, Any]
    warnings: tuple[str, ...] = ()
    gate: Gate | None = None


# --- history ------------------------------------------------------------------------------------


class Data(msgspec.Struct, frozen=True, gc=False):
    """The data of a commit, as the log tells it."""

    name: str
    md5: str
    rows: int
    tokens: int


class Loss(msgspec.Struct, frozen=True, gc=False):
    """First, last and mean logged loss of a batch."""

    first: float
    last: float
    mean: float


class Rate(msgspec.Struct, frozen=True, gc=False):
    """First and last learning rate of a batch."""

    first: float
    last: float


class Gate(msgspec.Struct, frozen=True, gc=False):
    """The metric of [gate] (nats a token, or perplexity) on the held-out file.

    Values under one `md5` can be compared: it stands for the file and how it becomes rows.
    """

    metric: str
    value: float
    md5: str


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One commit of a model repo, read from its message's trailers alone.

    `curve` is the batch's loss thinned to at most 32 points, for a sparkline. `message` is the
    subject, with the user's own `--message` if one was given. `rollback_to` is the full hash of
    the commit whose state a rollback brought back.
    """

    commit: str
    parents: tuple[str, ...]
    kind: Kind
    batch: int | None
    time: datetime
    message: str
    data: Data | None = None
    steps: int = 0
    lifetime_step: int = 0
    loss: Loss | None = None
    learning_rate: Rate | None = None
    seconds: float | None = None
    curve: tuple[float, ...] = ()
    rollback_to: str | None = None
    branches: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    gate: Gate | None = None
    is_head: bool = False

    @property
    def short(self) -> str:
        """The abbreviated hash (10 characters)."""
        return self.commit[:10]


class CommitDetail(msgspec.Struct, frozen=True):
    """One commit whole: what `mvc show` shows."""

    commit: Commit
    curve: tuple[CurvePoint, ...]
    settings: dict[str, Any]
    environment: dict[str, Any]
    state: Pointer
    batch: Pointer | None
    files: tuple[FileDigest, ...]


class Resolved(msgspec.Struct, frozen=True):
    """The commit that a revision names, and in words how it was found.

    `branch` is set when the revision is a branch's name: checkout then stays on it.
    """

    spec: str
    commit: str
    branch: str | None
    how: str


class Snapshot(msgspec.Struct, frozen=True):
    """A day's pin: the annotated tag `snapshot/DAY`."""

    day: str
    tag: str
    commit: Commit
    time: datetime
    message: str


# --- results of verbs ---------------------------------------------------------------------------


class InitResult(msgspec.Struct, frozen=True):
    """A new model repo."""

    root: Path
    commit: Commit
    base: str
    digest: str
    num_trainable_parameters: int


class BatchResult(msgspec.Struct, frozen=True):
    """One file of `mvc train`. `already` is true when the line had this content before."""

    commit: Commit
    already: bool = False
    branch: str | None = None
    tokens_per_s: float = 0.0
    peak_memory_bytes: int = 0


class CheckoutResult(msgspec.Struct, frozen=True):
    """Where a checkout or rollback arrived. `branch` is None when HEAD is detached."""

    commit: Commit
    resolved: Resolved
    branch: str | None
    num_files_changed: int


class RunInfo(msgspec.Struct, frozen=True):
    """A batch in progress (or interrupted), as `mvc status` tells it.

    `step` is the last checkpoint's; `live` is true while a process works on it.
    """

    data_name: str
    step: int
    parent: str
    live: bool


class Status(msgspec.Struct, frozen=True):
    """Where the repo stands.

    `state` compares current_model/ with HEAD: `clean`, `modified`, `missing`, `partial` where
    only files are missing that were not fetched either, or `thin` where `mvc gc` gave those up.
    `unpushed` is None without a remote, else the number of commits that the remote's branch lacks.
    """

    root: Path
    branch: str | None
    head: Commit
    state: Literal["clean", "modified", "missing", "partial", "thin"]
    changed_files: tuple[str, ...]
    run: RunInfo | None
    unpushed: int | None
    locked_by: str | None
    last_snapshot: str | None
    config_changed: bool


class Finding(msgspec.Struct, frozen=True):
    """One thing that `mvc fsck` found wrong."""

    commit: str | None
    path: str
    problem: str
    hint: str


class FsckResult(msgspec.Struct, frozen=True):
    """What `mvc fsck` looked at and found.

    `num_absent` objects are on a remote only, `mvc gc` let go of `num_given_up`; of `num_excused`
    commits the remote that was asked says that `mvc gc` gave up their state there, so that it was
    not missed.
    """

    num_commits: int
    num_objects: int
    num_bytes: int
    findings: tuple[Finding, ...]
    num_absent: int = 0
    num_given_up: int = 0
    num_repaired: int = 0
    num_excused: int = 0
