"""Where everything lies in a model repo (DESIGN.md, section 2).

Owns names and paths, and finding the repo from a folder inside it. Reads no content.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec

from mvc.errors import RepoError

CONFIG = "mvc.toml"
STATE = "current_model"
STATE_POINTER = "current_model.dvc"
BATCH = "batch"
BATCH_POINTER = "batch.dvc"
METRICS = "metrics.json"
CURVE = "loss.csv"
DVC_YAML = "dvc.yaml"
LOGS = "logs"
PRIVATE = ".mvc"

SNAPSHOT_PREFIX = "snapshot/"


def day_of(tag: str) -> str | None:
    """The day that a snapshot's tag is of (`snapshot/2026-11-20`); None for any other name.

    Whoever sends a tag chooses its name: a day that is in no calendar is none.
    """
    day = tag.removeprefix(SNAPSHOT_PREFIX)
    try:
        return day if tag != day and date.fromisoformat(day).isoformat() == day else None
    except ValueError:
        return None


class Layout(msgspec.Struct, frozen=True):
    """The paths of the model repo at `root`."""

    root: Path

    @property
    def config(self) -> Path:
        """mvc.toml."""
        return self.root / CONFIG

    @property
    def state(self) -> Path:
        """current_model/, links into the cache."""
        return self.root / STATE

    @property
    def batch(self) -> Path:
        """batch/, the data of HEAD's commit."""
        return self.root / BATCH

    @property
    def private(self) -> Path:
        """.mvc/, never tracked."""
        return self.root / PRIVATE

    @property
    def lock(self) -> Path:
        """The writers' lock."""
        return self.private / "lock"

    @property
    def line(self) -> Path:
        """The lock of who trains and moves HEAD."""
        return self.private / "line"

    @property
    def journal(self) -> Path:
        """The operation in progress, for recovery."""
        return self.private / "journal.json"

    @property
    def oplog(self) -> Path:
        """The log of operations, for `mvc undo`."""
        return self.private / "oplog.jsonl"

    @property
    def run(self) -> Path:
        """The batch in progress: run.json, checkpoints, the state being written."""
        return self.private / "run"

    @property
    def flight(self) -> Path:
        """The batch that a daemon has trained and is committing, while the next one trains."""
        return self.private / "flight"

    @property
    def daemon(self) -> Path:
        """The lock of `mvc watch`, held also while it is paused and others may train."""
        return self.private / "daemon"

    @property
    def watch(self) -> Path:
        """What `mvc watch` keeps: its status, a request to pause, files on their way."""
        return self.private / "watch"

    @property
    def collected(self) -> Path:
        """What `mvc gc` gave up of which commits."""
        return self.private / "collected"

    @property
    def trash(self) -> Path:
        """Objects that `mvc gc` deleted and that can still be brought back."""
        return self.private / "trash"

    @property
    def logs(self) -> Path:
        """Daemon logs."""
        return self.root / LOGS


def find(start: Path) -> Layout:
    """The model repo that holds `start`.

    Raises:
        RepoError: no parent folder of `start` is a model repo.
    """
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / CONFIG).is_file() and (folder / ".git").exists():
            return Layout(folder)
    raise RepoError(
        f"{start} is not inside a model repo (no {CONFIG} beside a .git folder)",
        "make one with `mvc init my-model --base smollm2-135m`, or name one with `mvc -C DIR ...`",
    )
