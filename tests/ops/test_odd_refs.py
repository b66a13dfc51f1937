"""A hub whose branches and tags have odd names: they are names, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvc.cli import main
from mvc.ops import checkout, fetch, gc, log, pull, push, snapshot, status
from mvc.store import git_locks, refs, signatures, user
from mvc.store.layout import Layout
from tests.ops.lines import cloned, commit, git, shared_line

ODD = (
    "line\u2028end",
    "next\u0085line",
    "no\u00a0break",
    "quotes'\"`x`",
    "$(touch marker)".replace(" ", "\u00a0"),
    "a,b",
    "x" * 200,
    "deep/" * 20 + "x",
    "snapshot",
    "-begins-with-a-dash",
)
TAGS = (
    "snapshot/2026-99-99",
    "snapshot/2026-11-21\u2028",
    "snapshot/2026-11-21x",
    "snapshot/deep/2026-11-21",
)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A hub with odd names, and clone a beside it."""
    shared_line(tmp_path)
    hub = tmp_path / "hub.git"
    for name in ODD:
        git(hub, "update-ref", f"refs/heads/{name}", "main")
    git(hub, "update-ref", b"refs/heads/not-utf8-\xff".decode(errors="surrogateescape"), "main")
    for name in TAGS:
        git(hub, "update-ref", f"refs/tags/{name}", "main")
    git(hub, "update-ref", "refs/tags/snapshot/2026-11-22", "main:mvc.toml")  # of no commit
    git(hub, "update-ref", "refs/tags/snapshot/2026-11-23", "main^{tree}")
    return hub


def test_a_hub_with_odd_names(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    b = cloned(tmp_path, "b")
    assert snapshot.days(b) == []
    assert set(ODD) < set(refs.branches(b.root, "origin"))
    git(b.root, "checkout", "-q", "--track", f"origin/{ODD[0]}")
    new = commit(b, 3)
    assert push.push(b).branch == ODD[0]
    assert git(hub, "rev-parse", f"refs/heads/{ODD[0]}") == new
    assert fetch.fetch(b).snapshots == ()
    pull.pull(b, all_states=True)
    gc.gc(b, remotes=["origin"])
    git(b.root, "checkout", "-q", "--detach")
    commit(b, 4)  # starts a branch, whose name is none of those
    monkeypatch.chdir(b.root)
    for args in (["status"], ["log"], ["snapshots"], ["verify"], ["fsck"], ["checkout", "nothing"]):
        assert main.run(args) in (0, 1), capsys.readouterr().err
    for day in ("2026-99-99", "2026-11-21", "2026-11-22"):
        assert main.run(["checkout", day]) == 1
    told = capsys.readouterr()
    assert "bug of ours" not in told.err
    assert "\u2028" not in told.out + told.err
    assert not list(tmp_path.rglob("marker"))


def test_days_in_no_calendar_that_are_here_already(tmp_path: Path) -> None:
    a = shared_line(tmp_path)
    for name in TAGS:
        git(a.root, "update-ref", f"refs/tags/{name}", "HEAD")
    pin = snapshot.snapshot(a)
    assert [each.day for each in snapshot.snapshots(a)] == [pin.day] == snapshot.days(a)
    assert log.log(a)[0].snapshots == (pin.day,)
    assert status.status(a).state == "clean"
    with pytest.raises(Exception, match="no snapshot and no commit"):
        checkout.checkout(a, "2025-01-01")


def test_an_unsigned_snapshot_is_at_no_moment_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill would leave it, and a checkout by date would go there."""
    a, b = shared_line(tmp_path), cloned(tmp_path, "b")
    snapshot.snapshot(a)
    push.push(a)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user.path().parent.mkdir(parents=True)
    user.path().write_text("[trust]\nrequire_signed = true\n")
    monkeypatch.setattr(signatures, "snapshots", _killed)
    with pytest.raises(KeyboardInterrupt):
        refs.fetch_refs(b, "origin")
    assert snapshot.days(b) == []
    monkeypatch.undo()


def _killed(*args: object, **options: object) -> list[object]:
    raise KeyboardInterrupt


def test_marks_name_files_with_odd_names(tmp_path: Path) -> None:
    """What a killed git left locked over there, under a name that looks like two lines."""
    a = shared_line(tmp_path)
    lock = tmp_path / "hub.git" / "refs" / "heads" / f"{ODD[0]}.lock"
    mark = a.private / "git-999999999"
    mark.write_text(f"{lock.with_suffix('')}\n")
    lock.touch()
    with git_locks.marked(Layout(a.root)):
        assert not lock.exists()
