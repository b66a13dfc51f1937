"""The machine that every test runs on: fixed HOME, author and zone, no configuration of its user.

`new_line` makes a git repository with commits as mvc writes them, without torch or DVC.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import hypothesis
import pytest

from mvc.store import messages
from mvc.types import Commit, Data, Loss, Rate

# Read when torch is imported. A forked child of a torch with threads hangs, and two workers share
# two cores.
os.environ["OMP_NUM_THREADS"] = "1"

# Deadlines measure the machine, and two cores are shared.
hypothesis.settings.register_profile("mvc", deadline=None)
hypothesis.settings.load_profile("mvc")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A HOME for the whole session, so that what is cached there is made once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            # A test run from a git hook must not write into the repository of the hook.
            if name.startswith(("GIT_", "DVC_", "XDG_", "MVC_")):
                patch.delenv(name)
        for name, value in {
            "HOME": str(home),
            "TZ": "UTC",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "dvc"),
            "HF_HUB_OFFLINE": "1",
        }.items():
            patch.setenv(name, value)
        time.tzset()
        yield home
    time.tzset()


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts this machine into another zone for one test."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


class Line:
    """A git repository whose commits are made by hand; branch `main` is checked out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)

    def git(self, *args: str) -> str:
        """Run git here and return what it printed."""
        return subprocess.run(
            ["git", *args], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def add(self, *commits: Commit, branch: str = "main", start: str | None = None) -> list[str]:
        """Put commits on a branch, in one `git fast-import`; returns their hashes.

        A new branch begins at `start`. The message is `format_message`'s, the time the commit's.
        """
        exists = not subprocess.run(
            ["git", "rev-parse", "-q", "--verify", branch], cwd=self.root, capture_output=True
        ).returncode
        parent = f"refs/heads/{branch}^0" if exists else start
        stream = bytearray()
        for mark, each in enumerate(commits, 1):
            text = each.message if each.kind == "other" else messages.format_message(each)
            who = f"Ada <ada@example.org> {int(each.time.timestamp())} {each.time:%z}"
            data = text.encode()
            stream += f"commit refs/heads/{branch}\nmark :{mark}\ncommitter {who}\n".encode()
            stream += b"data %d\n%b\n" % (len(data), data)
            stream += f"from {parent}\n".encode() if parent else b""
            stream += b"M 100644 inline n.txt\ndata %d\n%b\n" % (len(str(mark)), str(mark).encode())
            stream += f"get-mark :{mark}\n".encode()
            parent = None
        done = subprocess.run(
            ["git", "fast-import", "--quiet"],
            cwd=self.root,
            input=stream,
            check=True,
            capture_output=True,
        )
        return done.stdout.decode().split()


def start(when: str) -> Commit:
    """The first commit of a line."""
    return _made("init", when, message=messages.start_subject("tiny", 8))


def batch(number: int, when: str, name: str = "") -> Commit:
    """A batch whose data has the number, written with 32 digits, for MD5."""
    return _made(
        "batch",
        when,
        batch=number,
        data=Data(name or f"day-{number:02}.jsonl", f"{number:032}", 100, 4000),
        steps=10,
        lifetime_step=10 * number,
        loss=Loss(2.3125, 2.1, 2.2),
        learning_rate=Rate(1e-5, 2e-4),
        seconds=12.5,
        curve=(2.3125, 2.2, 2.1),
    )


def rollback(target: str, number: int, when: str) -> Commit:
    """A rollback to the batch `number`, whose hash is `target`."""
    message = f"Roll back to @{number} ({target[:10]})"
    return _made("rollback", when, message=message, rollback_to=target, lifetime_step=10 * number)


def _made(kind: str, when: str, **fields: object) -> Commit:
    made = {"commit": "", "parents": (), "batch": None, "message": "", **fields}
    return Commit(kind=kind, time=datetime.fromisoformat(when), **made)  # type: ignore[arg-type]


@pytest.fixture
def new_line(tmp_path: Path) -> Line:
    """An empty `Line` in this test's folder."""
    return Line(tmp_path / "line")
