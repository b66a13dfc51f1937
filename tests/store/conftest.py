"""A small model repo with real git and real DVC, and no model in it."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mvc.store import objects, workspace
from mvc.store.layout import BATCH, STATE, Layout

START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
IGNORED = "/.mvc\n/current_model\n/batch\n/logs\n"


def git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dvc(root: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *args], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill(folder: Path, seed: int) -> None:
    """A state's files: one that never changes, one empty, one in a folder, two that change."""
    chance = random.Random(seed)
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}\n")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "optimizer.pt").write_bytes(chance.randbytes(5000))
    (folder / "adapter.safetensors").write_bytes(chance.randbytes(3000))
    if seed % 2:
        (folder / f"odd_{seed}").write_bytes(chance.randbytes(10))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def state_of(seed: int, folder: Path) -> dict[str, bytes]:
    """What `current_model/` must hold after batch `seed`."""
    where = folder / f"expected-{seed}"
    if not where.exists():
        fill(where, seed)
    return content(where)


def batch_commit(layout: Layout, seed: int) -> workspace.NewCommit:
    """Store a state and its data, and describe the commit; 0 is the first, without data."""
    fill(layout.run / "state", seed)
    files = objects.hash_folder(layout.run / "state")
    pointers = [objects.store_folder(layout, layout.run / "state", files, STATE, {"step": seed})]
    tracked: dict[str, bytes | None] = {"metrics.json": f'{{"n": {seed}}}\n'.encode()}
    if seed:
        data = layout.run / "data.jsonl"
        data.write_text(f'{{"text": "{seed}"}}\n')
        found = objects.hash_file(data, "data.jsonl")
        pointers.append(
            objects.store_folder(layout, layout.run, [found], BATCH, {}, keep_source=True)
        )
    else:
        tracked |= {name: (layout.root / name).read_bytes() for name in objects.INIT_FILES}
        tracked |= {".gitignore": IGNORED.encode(), "mvc.toml": b"# settings\n"}
    branch, parent = workspace.head(layout.root)
    return workspace.NewCommit(
        f"batch {seed}\n\nBatch: {seed}",
        tracked,
        tuple(pointers),
        parent,
        branch or f"from-{seed}",
        START + timedelta(hours=seed),
        ends="run",
    )


def train(layout: Layout, seed: int) -> str:
    """A batch without training: what `mvc train` does with the store."""
    import shutil

    workspace.recover(layout)
    shutil.rmtree(layout.run, ignore_errors=True)
    return workspace.promote(layout, batch_commit(layout, seed))


def make(root: Path) -> Layout:
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    layout = Layout(root)
    objects.init(layout)
    return layout


@pytest.fixture
def empty(tmp_path: Path) -> Layout:
    """git and DVC, no commit."""
    return make(tmp_path / "repo")


@pytest.fixture
def line(empty: Layout) -> Layout:
    """Commits 0, 1 and 2 on main."""
    for seed in range(3):
        train(empty, seed)
    return empty


def assert_clean(layout: Layout) -> None:
    """Plain tools find nothing wrong, and nothing is left over."""
    assert git(layout.root, "status", "--porcelain") == ""
    assert "up to date" in dvc(layout.root, "status")
    git(layout.root, "fsck", "--strict")
    assert not list(layout.root.rglob(".mvc-*"))
    assert not list((layout.root / ".git").rglob("*.lock"))
    assert {path.name for path in layout.private.iterdir()} <= {"oplog.jsonl"}
