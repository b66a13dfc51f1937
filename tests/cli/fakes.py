"""Stand-ins for verbs of `ops` whose real ones need torch, and a made-up line of real commits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvc.store import messages
from mvc.types import Commit
from tests.render import samples as s


class Fake:
    """Functions by the name of their verb, put where `mvc.ops.VERB.VERB` is."""

    def __init__(self, **verbs: Callable[..., Any]) -> None:
        self.verbs = verbs

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import mvc.ops

        for verb, function in self.verbs.items():
            fake = SimpleNamespace(**{verb: function}, follows=lambda: False)
            monkeypatch.setattr(mvc.ops, verb, fake, raising=False)


def git(root: Path, *args: str, stdin: str | None = None, **env: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *args],
        cwd=root,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **env},
    )
    return done.stdout.strip()


def commit(root: Path, like: Commit, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    git(root, "add", "-A")
    when = like.time.isoformat()
    env = {"GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when}
    message = messages.format_message(like)
    git(root, "commit", "--allow-empty", "-q", "-F", "-", stdin=message, **env)
    return git(root, "rev-parse", "HEAD")


def empty_repo(root: Path) -> Path:
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    text = '[base]\nmodel = "tiny"\n\n[snapshot]\nzone = "Europe/Berlin"\n'
    (root / "mvc.toml").write_text(text, encoding="utf-8")
    return root


def line_repo(root: Path) -> Path:
    """init, @1, @2 (a snapshot), @3 that jumps, a rollback to @2, and one more batch."""
    empty_repo(root)
    commit(root, s.INIT, {})
    for sample in (s.ONE, s.TWO, s.THREE):
        rows = [
            f"{p.step},{p.lifetime_step},{p.loss},{p.learning_rate},{p.grad_norm or ''}"
            for p in s.points(sample)
        ]
        head = "step,lifetime_step,loss,learning_rate,grad_norm"
        sha = commit(root, sample, {"loss.csv": "\n".join([head, *rows]) + "\n"})
        if sample is s.TWO:
            git(root, "tag", "-a", "-m", "a good day", "snapshot/2026-11-20")
            two = sha
    from msgspec.structs import replace

    commit(root, replace(s.ROLLBACK, rollback_to=two), {})
    commit(root, replace(s.FOUR, batch=4), {})
    return root


def long_repo(root: Path, num: int) -> Path:
    """`num` batches, written by one fast-import."""
    empty_repo(root)
    stream = ["commit refs/heads/main\n"]
    for i in range(1, num + 1):
        like = s.batch(i, 3.0, 2.9, time=s.ONE.time + timedelta(minutes=10 * i))
        text = messages.format_message(like)
        stamp = f"A <a@b.c> {int(like.time.timestamp())} +0100"
        stream.append(f"{'' if i == 1 else 'commit refs/heads/main' + chr(10)}committer {stamp}\n")
        stream.append(f"data {len(text.encode())}\n{text}\n")
    git(root, "fast-import", "--quiet", stdin="".join(stream))
    return root
