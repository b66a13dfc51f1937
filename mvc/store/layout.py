"""Where everything lies in a model repo (DESIGN.md, section 2).

Owns names and paths, and finding the repo from a folder inside it. Reads no content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Layout:
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
    def journal(self) -> Path:
        """The operation in progress, for recovery."""
        return self.private / "journal.json"

    @property
    def run(self) -> Path:
        """The batch in progress: run.json, checkpoints, the state being written."""
        return self.private / "run"

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
