"""`mvc checkout`: that revision's bytes come back, and nothing of the user's is destroyed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mvc.errors import LockHeld, ObjectMissing, RepoError, RevisionNotFound
from mvc.ops import checkout, status
from mvc.store import pointers
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.ops.conftest import Unmoved, edit, git, sound, state_bytes, train_one


def test_every_revision_comes_back_byte_for_byte(trained: Layout, batches: list[Path]) -> None:
    train_one(trained, batches[0], again=True)
    newest, digests = state_bytes(trained), {}
    for number in (0, 1, 2, 3):
        result = checkout.checkout(trained, f"@{number}")
        assert result.branch is None
        assert (result.commit.batch, result.commit.lifetime_step) == (number, 4 * number)
        assert result.resolved.commit == result.commit.commit == git(trained, "rev-parse", "HEAD")
        assert status.status(trained).state == "clean"
        assert git(trained, "status", "--porcelain") == ""
        assert (trained.batch / f"day-{number - 1}.jsonl").is_file() == (number > 0)
        digests[number] = state_bytes(trained)
    assert len({str(d) for d in digests.values()}) == 4
    assert checkout.checkout(trained, "main").branch == "main"
    assert state_bytes(trained) == newest
    assert sound(trained)


def test_only_what_differs_is_moved(trained: Layout) -> None:
    inode = (trained.state / "tokenizer.json").stat().st_ino
    num_files = checkout.checkout(trained, "@2").num_files_changed
    assert 0 < num_files < len(list(trained.state.iterdir())) + 2
    assert (trained.state / "tokenizer.json").stat().st_ino == inode
    assert checkout.checkout(trained, "@2").num_files_changed == 0


def test_a_deleted_state_comes_back(trained: Layout) -> None:
    before = state_bytes(trained)
    (trained.state / "optimizer.pt").unlink()
    result = checkout.checkout(trained, "main")
    assert state_bytes(trained) == before
    assert result.num_files_changed == 1


def test_a_deleted_tracked_file_is_nothing_to_lose(trained: Layout) -> None:
    (trained.root / "loss.csv").unlink()
    checkout.checkout(trained, "@1")
    assert git(trained, "status", "--porcelain") == ""
    assert "0.01" in (trained.root / "loss.csv").read_text()


def test_an_unknown_revision_changes_nothing(trained: Layout) -> None:
    with Unmoved(trained), pytest.raises(RevisionNotFound) as caught:
        checkout.checkout(trained, "@99")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["current_model/notes.txt", "batch/mine.jsonl"])
def test_a_file_of_the_user_is_refused_and_kept(name: str, trained: Layout) -> None:
    (trained.root / name).write_text("mine")
    with Unmoved(trained), pytest.raises(RepoError, match="stored nowhere else") as caught:
        checkout.checkout(trained, "@1")
    assert name in caught.value.message
    assert (trained.root / name).read_text() == "mine"


def test_an_edit_of_a_tracked_file_is_refused_and_kept(trained: Layout) -> None:
    (trained.root / "metrics.json").write_text("{}")
    with Unmoved(trained), pytest.raises(RepoError, match=r"metrics\.json"):
        checkout.checkout(trained, "@1")
    assert (trained.root / "metrics.json").read_text() == "{}"


def test_an_edit_of_mvc_toml_goes_along_or_is_refused(trained: Layout, batches: list[Path]) -> None:
    edit(trained, "train.learning_rate=0.5")
    mine = trained.config.read_text()
    checkout.checkout(trained, "@1")
    assert trained.config.read_text() == mine, "it is the same in both commits"
    checkout.checkout(trained, "main")
    train_one(trained, batches[0], again=True)
    edit(trained, "train.learning_rate=0.25")
    with Unmoved(trained), pytest.raises(RepoError, match=r"mvc\.toml"):
        checkout.checkout(trained, "@1")


def test_without_its_objects_nothing_is_touched(trained: Layout) -> None:
    from mvc.ops.revision import resolve, state_at

    pointer = state_at(trained, resolve(trained, "@1").commit)
    md5 = next(m for path, m, _ in pointers.entries(trained, pointer) if path == "optimizer.pt")
    pointers.object_path(pointers.cache_folder(trained), md5).unlink()
    with Unmoved(trained), pytest.raises(ObjectMissing, match=r"optimizer\.pt") as caught:
        checkout.checkout(trained, "@1")
    assert "mvc pull" in caught.value.hint


def test_a_second_writer_is_refused(trained: Layout) -> None:
    with Lock(trained, "mvc train x"), Unmoved(trained), pytest.raises(LockHeld) as caught:
        checkout.checkout(trained, "@1")
    assert f"process {os.getpid()}" in caught.value.message


def test_a_commit_without_a_state_is_refused(trained: Layout) -> None:
    git(trained, "rm", "--quiet", "current_model.dvc")
    git(trained, "commit", "--quiet", "-m", "Drop the state")
    dropped = git(trained, "rev-parse", "HEAD")
    git(trained, "checkout", "--quiet", "HEAD~1")
    with Unmoved(trained), pytest.raises(RepoError, match="holds no model state"):
        checkout.checkout(trained, dropped)
