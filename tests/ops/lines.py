"""Model repos without torch: real git, real DVC, commits as mvc makes them, random states.

The states have the files of real ones, and about their proportions: AdamW's moments are two thirds.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ruamel.yaml import YAML

from mvc.ops import clone, push, record, remote
from mvc.settings import BaseSettings
from mvc.store import config, history, layout, messages, objects, workspace
from mvc.store.git import cat
from mvc.store.layout import Layout
from mvc.types import Commit, Data, Loss, Rate

START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
ADAPTER = 30_000
INFERENCE = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}


def fill(folder: Path, seed: int) -> None:
    """A state's files; tokenizer and configuration never change."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 4}\n')
    (folder / "tokenizer.json").write_text(json.dumps({"words": list(range(300))}))
    (folder / "adapter_model.safetensors").write_bytes(chance.randbytes(ADAPTER))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 0, "seed": seed}))
    if seed:
        (folder / "optimizer.pt").write_bytes(chance.randbytes(2 * ADAPTER))
        (folder / "scheduler.pt").write_bytes(chance.randbytes(1000))
        (folder / "rng_state.pth").write_bytes(chance.randbytes(5000))
        (folder / "optimizer_parameters.json").write_text("[]\n")


def new_line(root: Path, batches: int = 2, base: str = "tiny") -> Layout:
    """A model repo with its start and some batches on `main`."""
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    at = Layout(root)
    objects.init(at)
    commit(at, 0, base)
    for seed in range(1, batches + 1):
        commit(at, seed)
    return at


def commit(at: Layout, seed: int, name: str = "") -> str:
    """What `mvc train` commits, the state drawn from `seed`; 0 is the start, `name` its base."""
    workspace.recover(at)
    shutil.rmtree(at.run, ignore_errors=True)
    fill(at.run / "state", seed)
    files = objects.hash_folder(at.run / "state")
    meta = record.state_meta({"seed": seed}, files)
    pointers = [objects.store_folder(at, at.run / "state", files, layout.STATE, meta)]
    branch, parent = workspace.head(at.root)
    when = START + timedelta(hours=seed)
    if seed:
        folder = at.run / "data"
        folder.mkdir(parents=True)
        (folder / f"day-{seed}.jsonl").write_text(f'{{"text": "{seed}"}}\n' * 50)
        rows = objects.hash_folder(folder)
        pointers.append(
            objects.store_folder(at, folder, rows, layout.BATCH, record.files_meta(rows))
        )
        new = Commit(
            commit="",
            parents=(parent or "",),
            kind="batch",
            batch=history.next_batch(at.root),
            time=when,
            message="",
            data=Data(name or f"day-{seed}.jsonl", rows[0].md5, 50, 500),
            steps=4,
            lifetime_step=4 * seed,
            loss=Loss(3.0, 2.0, 2.5),
            learning_rate=Rate(1e-4, 1e-4),
            seconds=1.0,
            curve=(3.0, 2.0),
        )
    else:
        new = Commit("", (), "init", 0, when, messages.start_subject(name, 4))
    tracked: dict[str, bytes | None] = {
        layout.METRICS: record.metrics(new),
        layout.CURVE: record.curve_csv(()),
    }
    if not seed:
        tracked |= {each: (at.root / each).read_bytes() for each in objects.INIT_FILES}
        ignored = (layout.STATE, layout.BATCH, layout.LOGS, layout.PRIVATE)
        tracked[".gitignore"] = "".join(f"/{each}\n" for each in ignored).encode()
        tracked[layout.CONFIG] = config.new_text(BaseSettings(model=name)).encode()
        tracked[layout.DVC_YAML] = record.DVC_YAML
    made = workspace.NewCommit(
        messages.format_message(new), tracked, tuple(pointers), parent, branch or "from-x", when
    )
    return workspace.promote(at, made)


def shared_line(folder: Path, batches: int = 2, base: str = "tiny") -> Layout:
    """A line in `folder/a`, pushed to the bare `folder/hub.git` and the objects' `folder/store`."""
    at = new_line(folder / "a", batches, base)
    share(at, folder)
    return at


def share(at: Layout, folder: Path) -> None:
    """Add `folder`'s remote and push to it."""
    subprocess.run(
        ["git", "init", "-q", "--bare", "-b", "main", str(folder / "hub.git")], check=True
    )
    remote.add(at, "origin", str(folder / "hub.git"), str(folder / "store"), now=START)
    push.push(at)


def cloned(folder: Path, name: str, **options: object) -> Layout:
    """A clone of `folder/hub.git` in `folder/NAME`."""
    made = clone.clone(str(folder / "hub.git"), folder / name, **options)  # type: ignore[arg-type]
    return Layout(made.root)


def git(root: Path, *args: str) -> str:
    """Run git in `root`, as its user would."""
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(root: Path, *args: str) -> str:
    """Run DVC in `root`, as its user would."""
    command = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def state_of(seed: int, folder: Path) -> dict[str, bytes]:
    """What current_model/ holds after batch `seed`."""
    where = folder / f"expected-{seed}"
    if not where.exists():
        fill(where, seed)
    return content(where)


def whole(store: Path | Mapping[str, bytes], bare: Path) -> int:
    """That a stranger can have every commit of the bare repo: plain git and DVC's layout alone.

    Every object that a commit on any ref names is in the store (a folder, or what a server holds),
    under a name that is its hash.

    Returns:
        The number of commits.
    """
    commits = git(bare, "rev-list", "--all").split()
    names = (layout.STATE_POINTER, layout.BATCH_POINTER)
    found = {p for p in cat(bare, [f"{each}:{name}" for each in commits for name in names]) if p}
    for pointer in found:
        md5 = YAML(typ="safe").load(pointer)["outs"][0]["md5"]
        for entry in json.loads(_object(store, md5)):
            _object(store, entry["md5"])
    return len(commits)


def _object(store: Path | Mapping[str, bytes], md5: str) -> bytes:
    """An object of the store, which must hash to its name."""
    if isinstance(store, Path):
        data = (store / "files" / "md5" / md5[:2] / md5[2:]).read_bytes()
    else:
        data = store[md5]
    assert hashlib.md5(data).hexdigest() == md5.removesuffix(".dir")
    return data
