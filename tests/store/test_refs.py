"""Refs on their way: what comes, what never gets overwritten, and errors without passwords."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mvc.errors import RemoteError
from mvc.store import git_locks, refs, user
from mvc.store.layout import Layout
from tests.conftest import Line, batch, start
from tests.store.conftest import git

PIN = "snapshot/2026-11-20"


class Two:
    """Two clones, a and b, of one bare repository, remote `origin` in both."""

    def __init__(self, folder: Path) -> None:
        self.hub = folder / "hub.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.hub)], check=True)
        line = Line(folder / "a")
        line.add(start("2026-11-20T00:00:00+00:00"), batch(1, "2026-11-20T01:00:00+00:00"))
        git(line.root, "reset", "-q", "--hard")
        git(line.root, "remote", "add", "origin", str(self.hub))
        git(line.root, "push", "-q", "origin", "main")
        self.a = Layout(line.root)
        git(folder, "clone", "-q", str(self.hub), "b")
        self.b = Layout(folder / "b")

    def grow(self, at: Layout, number: int) -> str:
        """One more batch on `main`; its hash."""
        git(at.root, "commit", "-q", "--allow-empty", "-m", f"{number} of {at.root.name}")
        return self.at(at, "main")

    def at(self, at: Layout, ref: str) -> str:
        return git(at.root, "rev-parse", ref).strip()

    def pin(self, at: Layout, name: str = PIN) -> str:
        git(at.root, "tag", "-a", "-m", f"pinned in {at.root.name}", name)
        return self.at(at, name)


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def head(commit: str) -> dict[str, str]:
    return {"refs/heads/main": commit}


def test_what_one_pushes_the_other_fetches_and_no_branch_of_ours_moves(two: Two) -> None:
    new = two.grow(two.a, 2)
    pin = two.pin(two.a)
    before = two.at(two.b, "main")
    refs.push_refs(two.a, "origin", head(new) | {f"refs/tags/{PIN}": pin})
    assert refs.unsent(two.a.root, "origin", ["main"]) == []
    seen = refs.fetch_refs(two.b, "origin")
    assert (seen.new_snapshots, seen.differing) == ((PIN,), ())
    assert two.at(two.b, "main") == before
    assert two.at(two.b, "refs/remotes/origin/main") == new
    assert refs.snapshots(two.b.root) == refs.snapshots(two.b.root, "origin") == {PIN: pin}
    assert refs.ahead_behind(two.b.root, "main", "origin/main") == (0, 1)
    assert refs.fetch_refs(two.b, "origin").new_snapshots == ()


def test_a_snapshot_that_differs_is_told_and_each_side_keeps_its_own(two: Two) -> None:
    theirs, ours = two.pin(two.a), two.pin(two.b)
    assert theirs != ours
    refs.push_refs(two.a, "origin", {f"refs/tags/{PIN}": theirs})
    seen = refs.fetch_refs(two.b, "origin")
    assert (seen.new_snapshots, seen.differing) == ((), (PIN,))
    assert two.at(two.b, PIN) == ours
    with pytest.raises(refs.Rejected):
        refs.push_refs(two.b, "origin", {f"refs/tags/{PIN}": ours})
    assert git(two.hub, "rev-parse", PIN).strip() == theirs


def test_a_snapshot_that_was_removed_there_is_no_longer_taken_for_present(two: Two) -> None:
    pin = two.pin(two.a)
    refs.push_refs(two.a, "origin", {f"refs/tags/{PIN}": pin})
    refs.fetch_refs(two.a, "origin")
    git(two.hub, "tag", "-d", PIN)
    refs.fetch_refs(two.a, "origin")
    assert refs.snapshots(two.a.root, "origin") == {}
    assert refs.snapshots(two.a.root) == {PIN: pin}


def test_tags_that_pin_no_day_stay_away(two: Two) -> None:
    for name in ("v1", "snapshot/everything", "snapshot/2026-11-20-again"):
        git(two.a.root, "tag", name)
        git(two.a.root, "push", "-q", "origin", name)
    assert refs.fetch_refs(two.b, "origin").new_snapshots == ()
    assert git(two.b.root, "tag") == ""


def test_a_branch_only_moves_forward_there_and_all_or_nothing_does(two: Two) -> None:
    first = two.grow(two.a, 2)
    refs.push_refs(two.a, "origin", head(first))
    other = two.grow(two.b, 3)
    pin = two.pin(two.b)
    with pytest.raises(refs.Rejected):
        refs.push_refs(two.b, "origin", {f"refs/tags/{PIN}": pin} | head(other))
    assert git(two.hub, "for-each-ref", "--format=%(refname) %(objectname)").split() == [
        "refs/heads/main",
        first,
    ]


def test_a_configured_force_is_not_obeyed(two: Two) -> None:
    refs.push_refs(two.a, "origin", head(first := two.grow(two.a, 2)))
    other = two.grow(two.b, 3)
    git(two.b.root, "config", "remote.origin.push", "+refs/heads/*:refs/heads/*")
    with pytest.raises(refs.Rejected):
        refs.push_refs(two.b, "origin", head(other))
    assert git(two.hub, "rev-parse", "main").strip() == first


def killed(at: Layout, says: str = "") -> None:
    """Leave the mark of a process that is gone."""
    at.private.mkdir(exist_ok=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (at.private / f"git-{gone.pid}").write_text(says)


def test_a_git_that_was_killed_does_not_hold_up_the_next(two: Two) -> None:
    refs.push_refs(two.a, "origin", head(new := two.grow(two.a, 2)))
    folder = two.b.root / ".git"
    lock = folder / "refs" / "remotes" / "origin" / "main.lock"
    lock.touch()
    with pytest.raises(refs.Rejected):  # it may be a living one's
        refs.fetch_refs(two.b, "origin")
    lock.unlink()
    killed(two.b)
    users = [folder / "index.lock", folder / "HEAD.lock"]
    for each in (lock, *users):
        each.touch()
    refs.fetch_refs(two.b, "origin")
    assert two.at(two.b, "origin/main") == new
    assert not lock.exists()
    assert all(each.exists() for each in users)
    assert not list(two.b.private.iterdir())


def test_a_lock_that_is_older_than_the_killed_git_is_not_its_own(two: Two) -> None:
    refs.push_refs(two.a, "origin", head(two.grow(two.a, 2)))
    lock = two.b.root / ".git" / "refs" / "remotes" / "origin" / "main.lock"
    lock.touch()
    os.utime(lock, (lock.stat().st_mtime - 60,) * 2)
    killed(two.b)
    with pytest.raises(refs.Rejected):
        refs.fetch_refs(two.b, "origin")
    assert lock.exists()


def test_what_a_killed_push_left_locked_in_a_folder_is_unlocked(two: Two) -> None:
    new = two.grow(two.a, 2)
    locks = [two.hub / "refs" / "heads" / "main.lock", two.hub / "HEAD.lock"]
    for lock in locks:
        lock.touch()
    with pytest.raises(refs.Rejected, match=r"main\.lock") as caught:
        refs.push_refs(two.a, "origin", head(new))
    assert "delete it" in caught.value.hint
    for lock in locks:
        lock.unlink()
    marking = git_locks.marked(two.a, git_locks.pushed(two.a, "origin", head(new)))
    with marking:
        (mark,) = two.a.private.glob("git-*")
        left = mark.read_text()
    killed(two.a, left)
    for lock in locks:
        lock.touch()
    refs.push_refs(two.a, "origin", head(new))
    assert git(two.hub, "rev-parse", "main").strip() == new
    assert not any(lock.exists() for lock in locks)


def test_how_two_lines_relate(two: Two) -> None:
    base = two.at(two.a, "main")
    refs.push_refs(two.a, "origin", head(first := two.grow(two.a, 2)))
    other = two.grow(two.b, 3)
    refs.fetch_refs(two.b, "origin")
    root = two.b.root
    assert refs.ahead_behind(root, other, first) == (1, 1)
    assert refs.common(root, other, first) == base
    assert refs.unsent(root, "origin", ["main"]) == [other]
    assert refs.authors(root, [first, other]) == {first: "Ada", other: "Ada"}
    assert refs.branches(root, "origin") == ("main",)
    assert set(refs.reached(root, "origin")) == set(refs.ancestors(root, [first]))


def test_where_a_clone_begins(two: Two, tmp_path: Path) -> None:
    assert refs.head_branch(two.a, str(two.hub)) == "main"
    git(two.a.root, "push", "-q", "origin", "main:other")
    git(two.hub, "symbolic-ref", "HEAD", "refs/heads/other")
    assert refs.head_branch(two.a, str(two.hub)) == "other"
    git(two.hub, "symbolic-ref", "HEAD", "refs/heads/gone")
    assert refs.head_branch(two.a, str(two.hub)) == "main"
    empty = tmp_path / "empty.git"
    subprocess.run(["git", "init", "-q", "--bare", str(empty)], check=True)
    assert refs.head_branch(two.a, str(empty)) is None
    assert refs.fetch_branch(two.b, str(two.hub), "main") == two.at(two.a, "main")


def test_a_remote_that_is_not_there_is_named_without_its_password(two: Two) -> None:
    secret = "hunter2"
    url = f"http://ada:{secret}@127.0.0.1:1/model.git?token={secret}"
    git(two.a.root, "remote", "add", "far", url)
    for use in (
        lambda: refs.fetch_refs(two.a, "far"),
        lambda: refs.push_refs(two.a, "far", head(two.at(two.a, "main"))),
        lambda: refs.head_branch(two.a, url),
    ):
        with pytest.raises(RemoteError) as caught:
            use()
        error: BaseException | None = caught.value
        assert not isinstance(error, refs.Rejected)
        told = ""
        while error is not None:
            told += f"{error} {getattr(error, 'hint', '')}"
            error = error.__cause__
        assert secret not in told
        assert "127.0.0.1" in told


def test_what_git_says_of_a_missing_folder_is_told(two: Two, tmp_path: Path) -> None:
    git(two.a.root, "remote", "add", "far", str(tmp_path / "nothing"))
    with pytest.raises(RemoteError, match=r"far cannot be used: .*does not appear to be a git"):
        refs.fetch_refs(two.a, "far")


def test_a_command_as_url_is_not_run(two: Two, tmp_path: Path) -> None:
    git(two.a.root, "remote", "add", "far", f"ext::touch {tmp_path / 'ran'}")
    with pytest.raises(RemoteError, match="not allowed"):
        refs.fetch_refs(two.a, "far")
    with pytest.raises(RemoteError):
        refs.head_branch(two.a, f"--upload-pack=touch {tmp_path / 'ran'}")
    assert not (tmp_path / "ran").exists()


def test_git_gives_up_on_a_dead_connection_and_leaves_the_user_s_ssh_alone(
    new_line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Layout(new_line.root)
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    command = refs._ssh(at)["GIT_SSH_COMMAND"]
    assert "ConnectTimeout=30" in command and "ServerAliveInterval=30" in command
    new_line.git("config", "core.sshCommand", "ssh -i key")
    assert refs._ssh(at) == {}


def test_a_branch_that_is_gone_there_is_forgotten(two: Two) -> None:
    new = two.grow(two.a, 2)
    refs.push_refs(two.a, "origin", {"refs/heads/side": new})
    assert refs.fetch_refs(two.a, "origin") and refs.unsent(two.a.root, "origin", ["main"]) == []
    git(two.hub, "branch", "-D", "side")
    refs.fetch_refs(two.a, "origin")
    assert refs.unsent(two.a.root, "origin", ["main"]) == [new]
    git(two.hub, "update-ref", "-d", "refs/heads/main")
    refs.fetch_refs(two.a, "origin")
    assert refs.reached(two.a.root, "origin") == []


def test_a_branch_that_became_a_folder_of_branches_is_in_nobody_s_way(two: Two) -> None:
    git(two.hub, "branch", "x", "main")
    refs.fetch_refs(two.b, "origin")
    git(two.hub, "branch", "-m", "x", "x/y")
    refs.fetch_refs(two.b, "origin")
    assert set(refs.branches(two.b.root, "origin")) == {"main", "x/y"}
    with pytest.raises(RemoteError, match="in the way") as caught:
        refs.push_refs(two.b, "origin", {"refs/heads/x": two.at(two.b, "main")})
    assert not isinstance(caught.value, refs.Rejected)


def test_two_fetches_at_once_both_bring_the_snapshots(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one's tag comes between our look and our write."""
    pin = two.pin(two.a)
    refs.push_refs(two.a, "origin", {f"refs/tags/{PIN}": pin})
    write = refs._set

    def late(root: Path, lines: list[str]) -> None:
        if lines:
            git(two.b.root, "update-ref", f"refs/tags/{PIN}", other)
        write(root, lines)

    monkeypatch.setattr(refs, "_set", late)
    other = two.at(two.b, "main")
    with pytest.raises(refs.Rejected):
        refs.fetch_refs(two.b, "origin")
    git(two.b.root, "tag", "-d", PIN)
    other = pin
    refs.fetch_refs(two.b, "origin")
    assert refs.snapshots(two.b.root) == {PIN: pin}


def test_a_snapshot_that_nobody_signed_is_not_taken_where_signatures_are_asked_for(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = two.pin(two.a)
    refs.push_refs(two.a, "origin", {f"refs/tags/{PIN}": pin})
    asked = user.UserSettings(trust=user.Trust(require_signed=True))
    monkeypatch.setattr(user, "load", lambda: asked)
    assert refs.fetch_refs(two.b, "origin").new_snapshots == ()
    assert PIN not in refs.snapshots(two.b.root)
    monkeypatch.undo()
    assert refs.fetch_refs(two.b, "origin").new_snapshots == (PIN,)
