"""Model repos on a tiny real Llama, with real text, for the tests of ops."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.ops import init
from mvc.store import config
from mvc.store.layout import Layout
from mvc.types import BatchResult, CurvePoint, StepReport
from tests.tiny import make_base

SETS = (
    "train.max_length=32",
    "train.micro_batch_size=2",
    "train.packing=false",
    "train.learning_rate=1e-2",
    "train.warmup_steps=2",
    "lora.dropout=0.1",
    "lora.r=4",
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model folder that all tests share."""
    base = make_base(tmp_path_factory.mktemp("base"))
    for path in base.iterdir():
        # A file of this very second has no remembered digest, and would be hashed in some
        # processes and not in others: the kill tests count what a process does.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return base


@pytest.fixture
def new_model(tiny_base: Path, tmp_path: Path) -> Callable[..., Layout]:
    """Makes a model repo: `new_model("train.passes=2", name="other")`."""

    def new_model(*sets: str, name: str = "model") -> Layout:
        made = init.init(tmp_path / name, str(tiny_base), sets=[*SETS, *sets])
        return Layout(made.root)

    return new_model


def write_batch(path: Path, first: int, num_rows: int = 8) -> Path:
    """A data file of short rows of Python's own documentation, from topic line `first` on."""
    from pydoc_data.topics import topics

    lines = [" ".join(text.split()) for _, text in sorted(topics.items())]
    rows = [lines[i % len(lines)][i : i + 24] for i in range(first, first + num_rows)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.fixture
def batches(tmp_path: Path) -> list[Path]:
    """Three data files of eight rows each: four steps each with micro-batches of two."""
    return [write_batch(tmp_path / f"day-{i}.jsonl", 8 * i) for i in range(3)]


class Heard:
    """A Progress that remembers what it heard."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.points: list[CurvePoint] = []
        self.starts: list[tuple[str, int, int]] = []
        self.transfers: list[tuple[str, int, int]] = []

    def stage(self, text: str) -> None: ...

    def start(self, name: str, num_steps: int, first_step: int) -> None:
        self.starts.append((name, num_steps, first_step))

    def step(self, report: StepReport) -> None:
        self.points.append(report.point)

    def transfer(self, text: str, done_bytes: int, total_bytes: int) -> None:
        self.transfers.append((text, done_bytes, total_bytes))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> None: ...


def train_one(at: Layout, path: Path, **options: object) -> BatchResult:
    """Train one file and return its result."""
    from mvc.ops import train

    return next(iter(train.train(at, [path], **options)))  # type: ignore[arg-type]


def state_bytes(at: Layout) -> dict[str, bytes]:
    """Every file of current_model/ by name."""
    return {p.name: p.read_bytes() for p in sorted(at.state.iterdir())}


@pytest.fixture(scope="session")
def _trained_once(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repo after three batches; never changed, only copied."""
    folder = tmp_path_factory.mktemp("trained")
    at = Layout(init.init(folder / "model", str(tiny_base), sets=SETS).root)
    for i in range(3):
        train_one(at, write_batch(folder / f"day-{i}.jsonl", 8 * i))
    return at.root


@pytest.fixture
def trained(_trained_once: Path, tmp_path: Path, batches: list[Path]) -> Layout:
    """A model repo after the three `batches`, this test's own: its links are links again."""
    subprocess.run(["cp", "-a", _trained_once, tmp_path / "model"], check=True)
    return Layout(tmp_path / "model")


def git(at: Layout, *args: str) -> str:
    """Run git in the repo, as its user would, and return what it printed."""
    done = subprocess.run(["git", *args], cwd=at.root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def states(at: Layout) -> list[str]:
    """The state's hash at every commit, oldest first."""
    shas = git(at, "rev-list", "--reverse", "HEAD").split()
    texts = [git(at, "show", f"{sha}:current_model.dvc") for sha in shas]
    return [next(line for line in text.splitlines() if "md5:" in line) for text in texts]


@pytest.fixture
def at(new_model: Callable[..., Layout]) -> Layout:
    """A new model repo that keeps a checkpoint of every step; some files have an own `at`."""
    return new_model("train.checkpoint_steps=1")


@pytest.fixture
def alone(new_model: Callable[..., Layout], batches: list[Path]) -> list[str]:
    """The states of a line that nobody disturbed, one `mvc train` a file."""
    made = new_model("train.checkpoint_steps=1", name="alone")
    for path in batches:
        train_one(made, path)
    return states(made)


def edit(at: Layout, *sets: str) -> None:
    """Change mvc.toml, as its user would."""
    at.config.write_text(config.set_values(at.config.read_text(), sets))


def sound(at: Layout) -> bool:
    """Whether no stored object was written through and the workspace is HEAD's."""
    from mvc.ops import fsck

    return not fsck.fsck(at).findings


def adam_step(at: Layout) -> int:
    """The step that AdamW counts for its parameters; one for all of them."""
    from mvc.engine.state import load_torch

    moments = load_torch(at.state / "optimizer.pt")["state"].values()
    (step,) = {int(entry["step"]) for entry in moments}
    return step


class Unmoved:
    """Asserts that HEAD, the state's bytes and git's view are in the end as they were."""

    def __init__(self, at: Layout) -> None:
        self.at = at

    def look(self) -> tuple[str, ...]:
        return git(self.at, "rev-parse", "HEAD"), git(self.at, "status", "--porcelain")

    def __enter__(self) -> None:
        self.seen, self.bytes = self.look(), state_bytes(self.at)

    def __exit__(self, *error: object) -> None:
        assert self.look() == self.seen
        assert state_bytes(self.at) == self.bytes
