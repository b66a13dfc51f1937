"""`mvc clone`: the newest state, remotes set up, and nothing left of a clone that failed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mvc.cli import main
from mvc.errors import ObjectMissing, RemoteError, RepoError
from mvc.ops import clone, fetch, fsck, push, remote, snapshot, status
from mvc.store import objects, pointers
from mvc.store.layout import Layout
from tests.killing import moments, run_and_kill, spread
from tests.ops.lines import (
    cloned,
    commit,
    content,
    dvc,
    git,
    new_line,
    share,
    shared_line,
    state_of,
)


def assert_same(at: Layout, like: Layout, seed: int, folder: Path) -> None:
    """The clone stands where `like` does, with the state of batch `seed`."""
    assert content(at.state) == state_of(seed, folder)
    assert content(at.batch) == content(like.batch)
    assert git(at.root, "rev-parse", "HEAD") == git(like.root, "rev-parse", "HEAD")
    assert git(at.root, "symbolic-ref", "HEAD") == git(like.root, "symbolic-ref", "HEAD")
    assert git(at.root, "tag") == git(like.root, "tag")
    assert git(at.root, "status", "--porcelain", "--branch").startswith("## main...origin/main")
    assert git(at.root, "status", "--porcelain") == ""
    assert status.status(at).state == "clean"
    assert {path.name for path in at.private.iterdir()} <= {"lock", "lock.json", "oplog.jsonl"}


def test_a_clone_has_the_newest_state_and_can_share(tmp_path: Path) -> None:
    a = new_line(tmp_path / "a", 3)
    snapshot.snapshot(a)
    share(a, tmp_path)
    result = clone.clone(str(tmp_path / "hub.git"), tmp_path / "b")
    b = Layout(result.root)
    assert (result.remote, result.branch, result.num_commits) == ("origin", "main", 5)
    assert_same(b, a, 3, tmp_path)
    assert "up to date" in dvc(b.root, "status")
    sizes = sum(len(data) for data in (content(b.state) | content(b.batch)).values())
    assert sizes <= result.objects.num_bytes < sizes + 2000  # one state, not three
    assert remote.remote(b) == remote.remote(a)
    commit(b, 4)
    assert len(push.push(b).commits) == 1
    fetch.fetch(b, all_states=True)
    assert fsck.fsck(b).findings == ()


def test_all_states_at_once(tmp_path: Path) -> None:
    shared_line(tmp_path, 3)
    b = cloned(tmp_path, "b", all_states=True)
    shutil.rmtree(tmp_path / "store")
    assert fsck.fsck(b).findings == ()


def test_the_remote_keeps_its_name_and_the_branch_is_the_hub_s(tmp_path: Path) -> None:
    a = new_line(tmp_path / "a", 1)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "hub.git"], check=True)
    git(a.root, "branch", "-m", "main", "night")
    remote.add(a, "team", str(tmp_path / "hub.git"), str(tmp_path / "store"))
    push.push(a)
    git(tmp_path / "hub.git", "symbolic-ref", "HEAD", "refs/heads/night")
    result = clone.clone(str(tmp_path / "hub.git"), tmp_path / "b")
    assert (result.remote, result.branch) == ("team", "night")
    commit(Layout(result.root), 2)
    assert push.push(Layout(result.root)).remote == "team"


def test_a_repo_that_does_not_say_where_its_objects_are(tmp_path: Path) -> None:
    a = new_line(tmp_path / "a", 1)
    dvc(a.root, "remote", "add", "-q", "--local", "-d", "here", str(tmp_path / "store"))
    dvc(a.root, "push")
    with pytest.raises(RemoteError) as caught:
        clone.clone(str(a.root), tmp_path / "b")
    assert "--data" in caught.value.hint
    assert not (tmp_path / "b").exists()
    result = clone.clone(str(a.root), tmp_path / "b", data_url=str(tmp_path / "store"))
    b = Layout(result.root)
    assert content(b.state) == state_of(1, tmp_path)
    assert git(b.root, "status", "--porcelain") == "M .dvc/config"
    dvc(b.root, "pull")


def test_the_objects_are_elsewhere_than_the_repo_says(tmp_path: Path) -> None:
    """On this machine alone: what the repo records stays, and is what others go by."""
    shared_line(tmp_path)
    shutil.move(tmp_path / "store", tmp_path / "moved")
    moved = str(tmp_path / "moved")
    for _ in range(2):  # a killed one, run again, finds what it wrote
        b = cloned(tmp_path, "b", data_url=moved)
        assert content(b.state) == state_of(2, tmp_path)
        assert git(b.root, "status", "--porcelain") == ""
        (told,) = remote.remote(b)
        assert (told.name, told.data_url) == ("origin", moved)
        (b.private / "clone").write_text(
            hashlib.sha256(str(tmp_path / "hub.git").encode()).hexdigest()
        )
    assert str(tmp_path / "store") in git(b.root, "show", "HEAD:.dvc/config")
    (b.private / "clone").unlink()
    commit(b, 3)
    assert len(push.push(b).commits) == 1
    assert not (tmp_path / "store").exists()
    assert fsck.fsck(b, remote="origin").findings == ()


@pytest.mark.parametrize("name", ["../../x", "--upload-pack=x", "a b", "x.lock"])
def test_a_remote_s_odd_name_in_a_stranger_s_repo(tmp_path: Path, name: str) -> None:
    a = shared_line(tmp_path, 1)
    config = a.root / ".dvc" / "config"
    config.write_text(config.read_text().replace("origin", name))
    assert name in config.read_text()
    git(a.root, "commit", "-qam", "an odd name")
    git(a.root, "push", "-q", "origin", "main")
    with pytest.raises(RemoteError, match="cannot be a remote's name"):
        cloned(tmp_path, "b")
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_cloned_leaves_nothing(tmp_path: Path) -> None:
    at = shared_line(tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    with pytest.raises(RepoError, match="is not empty"):
        clone.clone(str(tmp_path / "hub.git"), full)
    assert content(full) == {"mine": b"mine"}
    with pytest.raises(RemoteError, match="cannot be used"):
        clone.clone(str(tmp_path / "nothing.git"), tmp_path / "b")
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    with pytest.raises(RepoError, match="holds no commit yet"):
        clone.clone(str(tmp_path / "empty.git"), tmp_path / "b")
    git(tmp_path, "init", "-q", "code")
    git(tmp_path / "code", "commit", "-q", "--allow-empty", "-m", "code")
    with pytest.raises(RepoError, match="is no model repo"):
        clone.clone(str(tmp_path / "code"), tmp_path / "b")
    shutil.move(tmp_path / "store", tmp_path / "moved")
    existing = tmp_path / "existing"
    existing.mkdir()
    with pytest.raises((RemoteError, ObjectMissing)):
        clone.clone(str(tmp_path / "hub.git"), existing)
    assert list(existing.iterdir()) == []
    assert not (tmp_path / "b").exists()
    assert git(at.root, "status", "--porcelain") == ""


@pytest.mark.slow
def test_killed_at_any_moment_the_next_clone_completes(tmp_path: Path) -> None:
    a = new_line(tmp_path / "a", 2)
    snapshot.snapshot(a)
    share(a, tmp_path)

    def run() -> None:
        cloned(tmp_path, "b")

    count = len(moments(run))
    for nth in spread(count, 20):
        shutil.rmtree(tmp_path / "b")
        run_and_kill(run, nth)
        at = Layout(tmp_path / "b")
        if at.root.exists():
            for path in objects.cache_folder(at).glob("??/*"):
                assert pointers.verify_object(at, path.parent.name + path.name) is None
        if not at.config.exists() or (at.private / "clone").exists():  # else it was done
            run()
        assert_same(at, a, 2, tmp_path)


def test_a_url_gives_the_clone_its_name() -> None:
    for url, name in {
        "git@example.org:team/model.git": "model",
        "https://example.org/team/my%20model/": "my model",
        "/srv/git/model.git": "model",
        "host:model": "model",
    }.items():
        assert clone._name_of(url) == name
    with pytest.raises(RepoError):
        clone._name_of("https://ada:secret@example.org/")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared_line(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main.run(["clone", "hub.git"]) == 0
    said = capsys.readouterr().out
    assert f"Cloned into {tmp_path / 'hub'}" in said
    assert "main at " in said
    assert main.run(["clone", "hub.git", "part", "--adapter-only", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["partial"], told["branch"]) == (True, "main")
    assert main.run(["-C", "part", "status"]) == 0
    assert "the rest was not fetched" in capsys.readouterr().out
    assert main.run(["clone", "hub.git"]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "below", tmp_path / "file", Path("/proc/no-such")):
        with pytest.raises(RepoError) as caught:
            clone.clone(str(tmp_path / "hub.git"), where)
        assert "mvc clone" in caught.value.hint


def test_a_full_folder_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a home with a million files."""
    (tmp_path / "full" / "deep").mkdir(parents=True)
    (tmp_path / "full" / "other").touch()
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("it was walked"))
    with pytest.raises(RepoError, match="not empty"):
        clone.clone(str(tmp_path / "hub.git"), tmp_path / "full")
