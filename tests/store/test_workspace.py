"""Moving to another commit, and what stops it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from mvc.errors import ObjectMissing, RepoError, StoreError
from mvc.store import objects, tracked, workspace
from mvc.store.layout import Layout
from tests.store.conftest import assert_clean, batch_commit, content, git, state_of, train


def commits(line: Layout) -> list[str]:
    """Oldest first."""
    return git(line.root, "rev-list", "--reverse", "main").split()


def everything(line: Layout) -> dict[str, bytes]:
    return {
        path: data
        for path, data in content(line.root).items()
        if not path.startswith((".git/", ".dvc/tmp", ".dvc/cache", ".mvc/oplog"))
    }


def test_head(empty: Layout) -> None:
    assert workspace.head(empty.root) == ("main", None)
    first = train(empty, 0)
    assert workspace.head(empty.root) == ("main", first)
    git(empty.root, "checkout", "-q", "--detach")
    assert workspace.head(empty.root) == (None, first)


def test_there_and_back_again(line: Layout, tmp_path: Path) -> None:
    zero, one, two = commits(line)
    before = everything(line)
    assert workspace.checkout(line, one, None) > 0
    assert workspace.head(line.root) == (None, one)
    assert content(line.state) == state_of(1, tmp_path)
    assert_clean(line)
    workspace.checkout(line, zero, None)
    assert not line.batch.exists()
    assert not (line.root / "batch.dvc").exists()
    assert content(line.state) == state_of(0, tmp_path)
    workspace.checkout(line, two, "main")
    assert workspace.head(line.root) == ("main", two)
    assert everything(line) == before
    assert workspace.checkout(line, two, "main") == 0
    assert_clean(line)
    git(line.root, "checkout", "-q", "-")
    assert workspace.head(line.root) == (None, zero)


def test_a_missing_object_stops_it_before_anything(line: Layout) -> None:
    one = commits(line)[1]
    pointer = tracked.pointers_of(line.root, one)[0]
    path, md5, _ = objects.entries(line, pointer)[0]
    objects.object_path(objects.cache_folder(line), md5).unlink()
    before = everything(line)
    with pytest.raises(ObjectMissing, match=f"current_model/{path} of commit {one[:10]}") as caught:
        workspace.checkout(line, one, None)
    assert "mvc fetch --all" in caught.value.hint
    assert everything(line) == before
    assert workspace.head(line.root)[0] == "main"


def test_a_commit_without_state_is_refused(line: Layout) -> None:
    git(line.root, "checkout", "-q", "--orphan", "other")
    git(line.root, "rm", "-rfq", "--cached", ".")
    git(line.root, "commit", "-q", "--allow-empty", "-m", "nothing")
    other = git(line.root, "rev-parse", "other").strip()
    with pytest.raises(RepoError, match="no model state"):
        workspace.checkout(line, other, "other")


def test_an_edit_in_the_way_is_refused_and_others_are_kept(line: Layout) -> None:
    new = batch_commit(line, 3)
    workspace.promote(line, replace(new, files=new.files | {"mvc.toml": b"# other\n"}))
    two = commits(line)[2]
    line.config.write_text("# mine\n")
    before = everything(line)
    with pytest.raises(RepoError, match=r"mvc\.toml"):
        workspace.checkout(line, two, None)
    assert everything(line) == before
    git(line.root, "checkout", "-q", "mvc.toml")
    (line.root / "untracked.txt").write_text("mine")
    workspace.checkout(line, two, None)
    assert (line.root / "untracked.txt").read_text() == "mine"
    line.config.write_text("# mine\n")
    workspace.checkout(line, commits(line)[1], None)
    assert line.config.read_text() == "# mine\n"


def test_a_branch_that_is_elsewhere_is_refused(line: Layout) -> None:
    with pytest.raises(StoreError, match="main is not at"):
        workspace.checkout(line, commits(line)[0], "main")


def test_odd_files_of_the_user_come_along(line: Layout) -> None:
    """Modes, symbolic links, folders and names with spaces are git's business, done by git."""
    root = line.root
    (root / "sub dir").mkdir()
    (root / "sub dir" / "dé jà.sh").write_text("#!/bin/sh\n")
    (root / "sub dir" / "dé jà.sh").chmod(0o755)
    (root / "to").symlink_to("sub dir")
    git(root, "add", "sub dir", "to")
    git(root, "commit", "-q", "-m", "mine")
    mine = git(root, "rev-parse", "HEAD").strip()
    workspace.checkout(line, commits(line)[1], None)
    assert not (root / "to").is_symlink()
    assert not (root / "sub dir" / "dé jà.sh").exists()
    workspace.checkout(line, mine, "main")
    assert (root / "to").is_symlink()
    assert (root / "sub dir" / "dé jà.sh").stat().st_mode & 0o100
    assert_clean(line)


def test_dirty_names_what_would_be_lost(line: Layout) -> None:
    assert workspace.dirty(line) == ()
    line.config.write_text("# mine\n")
    assert workspace.dirty(line) == ()
    (line.root / "metrics.json").write_text("{}")
    (line.state / "config.json").unlink()
    (line.state / "config.json").write_text("mine")
    (line.state / "adapter.safetensors").unlink()
    assert workspace.dirty(line) == ("current_model/config.json", "metrics.json")


def test_dirty_is_not_what_the_cache_holds(line: Layout) -> None:
    older = tracked.pointers_of(line.root, commits(line)[1])[0]
    objects.link(line, older)
    assert workspace.dirty(line) == ()


def test_dirty_writes_nothing(line: Layout) -> None:
    """The user's own git may hold the index at that moment, and a kill leave its lock for ever."""
    os.utime(line.root / "metrics.json", ns=(0, 0))  # git's index remembers another time
    index = line.root / ".git" / "index"
    before = index.stat()
    assert workspace.dirty(line) == ()
    assert index.stat() == before
