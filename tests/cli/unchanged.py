"""A trained model repo, the command line called on it, and a look at every byte of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec
import pytest
from msgspec.structs import replace

from mvc.cli import main as boundary
from tests.ops.conftest import SETS, write_batch
from tests.tiny import make_base

_PATIENCE_S = 60
_LONGEST_ERROR = 2000
# The lock's file stays when the lock is free; git and DVC keep notes of what they last looked at.
_NOTES = (".mvc/lock", ".mvc/batches.json", ".dvc/tmp", ".git/index")


class Model(msgspec.Struct, frozen=True):
    """A model repo with one batch, the base model it stands on, and data for the next batch."""

    root: Path
    base: Path
    good: Path


class Told(msgspec.Struct, frozen=True):
    """What a command answered."""

    status: int
    out: str
    err: str


def make_model(folder: Path, *sets: str) -> Model:
    """A base of its own, `mvc init` and one batch."""
    base = make_base(folder / "base")
    model = Model(folder / "model", base, write_batch(folder / "good.jsonl", 50))
    flags = [flag for each in (*SETS, *sets) for flag in ("--set", each)]
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
        assert boundary.run(["init", str(model.root), "--base", str(base), *flags]) == 0, (
            words.getvalue()
        )
        first = write_batch(folder / "first.jsonl", 0)
        assert boundary.run(["-C", str(model.root), "train", str(first)]) == 0, words.getvalue()
    return model


def copy_of(model: Model, folder: Path) -> Model:
    """The same repo elsewhere, on the same base: what one test does to it, no other sees."""
    root = folder / "model"
    shutil.copytree(model.root, root, symlinks=True)
    return replace(model, root=root)


def call(capfd: pytest.CaptureFixture[str], *args: object) -> Told:
    """`mvc ARGS` in this process. A command that hangs ends as a bug, with 255."""
    capfd.readouterr()
    with _in_time():
        status = boundary.run([str(arg) for arg in args])
    return Told(status, *capfd.readouterr())


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer for {_PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def git(root: Path, *args: str, stdin: bytes | None = None) -> str:
    done = subprocess.run(["git", *args], cwd=root, input=stdin, check=True, capture_output=True)
    return done.stdout.decode().strip()


def look(root: Path) -> dict[str, str]:
    """What git says of the repo, and the hash (or target, or kind) of everything below it."""
    seen = {
        "git status": git(root, "status", "--porcelain"),
        "HEAD": git(root, "rev-parse", "HEAD"),
        "refs": git(root, "for-each-ref"),
    }
    for folder, folders, names in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *names)):
            name = path.relative_to(root).as_posix()
            if name.startswith(_NOTES):
                continue
            if path.is_symlink():
                seen[name] = f"-> {path.readlink()}"
            elif path.is_file():
                seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                seen[name] = "folder" if path.is_dir() else "other"
    return seen


def assert_refused(
    capfd: pytest.CaptureFixture[str], model: Model, args: list[object], told: str
) -> None:
    """`mvc ARGS` in the repo is an expected error that says `told`, and not one byte moves."""
    before = look(model.root)
    answer = call(capfd, "-C", model.root, *args)
    shown = answer.err[:_LONGEST_ERROR]
    assert answer.status in (1, 2), f"{answer.status}: {shown}"
    for word in ("Error: ", "Hint: ", told):
        assert word.lower() in answer.err.lower(), f"no {word!r} in: {shown}"
    assert "Traceback" not in answer.err, shown
    assert len(answer.err) < _LONGEST_ERROR, f"{len(answer.err)} characters: {shown}"
    if "--json" in args and answer.out:
        assert json.loads(answer.out) == []
    else:
        assert answer.out == "", answer.out
    after = look(model.root)
    changed = {n: (before.get(n), after.get(n)) for n in before | after}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    assert not changed, f"{changed} after {shown}"
