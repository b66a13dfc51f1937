"""The operation log never lies, and an undo is whole or not begun: killed at any moment.

After a recovery an operation is in the log exactly when its refs are where it put them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from mvc.ops import checkout, fsck, snapshot, undo
from mvc.store import oplog, workspace
from mvc.store.layout import Layout
from tests.killing import count_events, run_and_kill, spread
from tests.ops.lines import commit, content, git, new_line
from tests.processes import in_process

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 20, 14, tzinfo=UTC)
Act = Callable[[Layout], object]


def copied(at: Layout, to: Path) -> Layout:
    subprocess.run(["rm", "-rf", to], check=True)
    subprocess.run(["cp", "-a", at.root, to], check=True)
    return Layout(to)


def seen(at: Layout) -> tuple[object, ...]:
    """Refs, HEAD, git's view, tracked files, state and batch."""
    refs = git(at.root, "for-each-ref", "refs/heads", "refs/tags", "--format=%(refname)").split()
    head = (at.root / ".git" / "HEAD").read_text()
    commits = [git(at.root, "rev-parse", f"{ref}^{{commit}}") for ref in (*refs, "HEAD")]
    files = {path: data for path, data in content(at.root).items() if not path.startswith(".")}
    return refs, commits, head, git(at.root, "status", "--porcelain"), files


def killed_everywhere(at: Layout, scratch: Path, act: Act, moments: int) -> None:
    """Kill `act`; after recovery all is as before it and unlogged, or as after it and logged."""
    repo = copied(at, scratch)
    before, logged = seen(repo), list(oplog.entries(repo))
    act(repo)  # here too, so that what this process remembers of it, its children remember
    after = seen(repo)
    assert after != before
    assert len(list(oplog.entries(repo))) == len(logged) + 1
    copied(at, scratch)
    events = count_events(partial(act, repo))
    ends = set()
    for nth in spread(events, moments):
        copied(at, scratch)
        killed = run_and_kill(partial(act, repo), nth)
        assert killed or nth >= events - 2
        in_process(partial(workspace.recover, repo))
        now, told = seen(repo), list(oplog.entries(repo))
        ends.add(now == after)
        assert now == (after if now == after else before), f"half of it at moment {nth} of {events}"
        assert told[len(told) - len(logged) :] == logged
        assert len(told) - len(logged) == (1 if now == after else 0)
        if now == after:
            assert told[0].head[1] == (
                repo.root / ".git" / "HEAD"
            ).read_text().strip().removeprefix("ref: ")
            assert told[0].commit[1] == git(repo.root, "rev-parse", "HEAD")
        assert not repo.journal.exists()
        assert not list((repo.root / ".git").rglob("*.lock"))
    assert ends == {False, True}
    in_process(partial(workspace.recover, repo))
    assert in_process(partial(fsck.fsck, repo)).findings == ()


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return new_line(tmp_path_factory.mktemp("killed") / "model")


def test_a_commit_killed(at: Layout, tmp_path: Path) -> None:
    killed_everywhere(at, tmp_path / "scratch", lambda repo: commit(repo, 3), 16)


def test_a_snapshot_killed(at: Layout, tmp_path: Path) -> None:
    killed_everywhere(at, tmp_path / "scratch", lambda repo: snapshot.snapshot(repo, now=NOW), 10)


def test_an_undone_commit_killed(at: Layout, tmp_path: Path) -> None:
    killed_everywhere(at, tmp_path / "scratch", lambda repo: undo.undo(repo), 16)


def test_an_undone_snapshot_killed(at: Layout, tmp_path: Path) -> None:
    start = copied(at, tmp_path / "start")
    snapshot.snapshot(start, now=NOW)
    git(start.root, "pack-refs", "--all")  # its removal is then git's rewriting of packed-refs
    killed_everywhere(start, tmp_path / "scratch", lambda repo: undo.undo(repo), 10)


def test_an_undone_branch_killed_and_its_redo(at: Layout, tmp_path: Path) -> None:
    """The most that an undo does: a branch goes, HEAD leaves it, the workspace with it."""
    start = copied(at, tmp_path / "start")
    checkout.checkout(start, "@1")
    commit(start, 7)
    killed_everywhere(start, tmp_path / "scratch", lambda repo: undo.undo(repo), 16)
    undo.undo(start)
    killed_everywhere(start, tmp_path / "again", lambda repo: undo.undo(repo), 10)
