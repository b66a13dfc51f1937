"""`mvc rollback`: a new commit with an old state; the history stays, and training goes on there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mvc.errors import ConfigError, LockHeld, RepoError, RevisionNotFound
from mvc.ops import checkout, log, rollback, status
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.ops.conftest import (
    Unmoved,
    adam_step,
    edit,
    git,
    sound,
    state_bytes,
    train_one,
)


def test_the_state_comes_back_and_the_history_stays(trained: Layout) -> None:
    head = git(trained, "rev-parse", "HEAD")
    checkout.checkout(trained, "@1")
    old = state_bytes(trained)
    checkout.checkout(trained, "main")

    result = rollback.rollback(trained, "@1", message="It forgot its manners")
    commit = result.commit
    assert state_bytes(trained) == old
    assert (commit.kind, commit.batch, commit.parents) == ("rollback", None, (head,))
    assert commit.rollback_to == result.resolved.commit == git(trained, "rev-parse", "HEAD~3")
    assert commit.lifetime_step == 4
    assert "It forgot its manners" in commit.message
    assert (result.branch, commit.branches) == ("main", ("main",))
    assert [each.batch for each in log.log(trained)] == [None, 3, 2, 1, 0]
    assert git(trained, "status", "--porcelain") == ""
    assert json.loads((trained.root / "metrics.json").read_text())["lifetime_step"] == 4
    assert (trained.batch / "day-0.jsonl").is_file()
    assert status.status(trained).state == "clean"
    assert sound(trained)


def test_training_goes_on_from_there(trained: Layout, batches: list[Path]) -> None:
    rollback.rollback(trained, "@1")
    result = train_one(trained, batches[2])
    assert (result.commit.batch, result.commit.lifetime_step) == (4, 8)
    assert adam_step(trained) == 8


def test_back_to_the_start_and_forward_again(trained: Layout, batches: list[Path]) -> None:
    before = state_bytes(trained)
    rollback.rollback(trained, "@0")
    assert not (trained.root / "batch.dvc").exists()
    assert not trained.batch.exists()
    assert not (trained.state / "optimizer.pt").exists()
    rollback.rollback(trained, "@3")
    assert state_bytes(trained) == before
    assert (trained.batch / "day-2.jsonl").is_file()
    train_one(trained, batches[0], again=True)
    assert adam_step(trained) == 16
    assert sound(trained)


def test_to_a_commit_made_by_hand_the_counters_are_its_state_s(
    trained: Layout, batches: list[Path]
) -> None:
    """Such a commit has no trailers: a lifetime step of 0 would restart moments and schedule."""
    edit(trained, "train.learning_rate=5e-3")
    git(trained, "commit", "--quiet", "-am", "Halve the rate")
    by_hand = git(trained, "rev-parse", "HEAD")
    train_one(trained, batches[0], again=True)
    result = rollback.rollback(trained, by_hand)
    assert result.commit.lifetime_step == 12
    assert train_one(trained, batches[1], again=True).commit.lifetime_step == 16
    assert adam_step(trained) == 16


def test_on_no_branch_there_is_none_to_roll_back(trained: Layout) -> None:
    checkout.checkout(trained, "@2")
    with Unmoved(trained), pytest.raises(RepoError, match="on no branch") as caught:
        rollback.rollback(trained, "@1")
    assert "git switch" in caught.value.hint


def test_the_same_state_is_refused(trained: Layout) -> None:
    with Unmoved(trained), pytest.raises(RepoError, match="has the state of @3 already"):
        rollback.rollback(trained, "@3")


def test_an_unknown_revision_is_refused(trained: Layout) -> None:
    with Unmoved(trained), pytest.raises(RevisionNotFound):
        rollback.rollback(trained, "@99")


def test_a_dirty_workspace_is_refused_and_kept(trained: Layout) -> None:
    (trained.state / "notes.txt").write_text("mine")
    with Unmoved(trained), pytest.raises(RepoError, match=r"notes\.txt"):
        rollback.rollback(trained, "@1")
    assert (trained.state / "notes.txt").read_text() == "mine"


def test_another_lora_in_mvc_toml_is_refused(trained: Layout) -> None:
    edit(trained, "lora.r=8")
    with Unmoved(trained), pytest.raises(ConfigError, match="cannot change on a line"):
        rollback.rollback(trained, "@1")


def test_an_edit_of_mvc_toml_is_kept(trained: Layout) -> None:
    edit(trained, "train.learning_rate=0.25")
    mine = trained.config.read_text()
    rollback.rollback(trained, "@1")
    assert trained.config.read_text() == mine


def test_a_second_writer_is_refused(trained: Layout) -> None:
    with Lock(trained, "mvc train x"), Unmoved(trained), pytest.raises(LockHeld) as caught:
        rollback.rollback(trained, "@1")
    assert f"process {os.getpid()}" in caught.value.message
