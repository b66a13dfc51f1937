"""`mvc snapshot`: a day is pinned once and never overwritten."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mvc.errors import LockHeld, RepoError
from mvc.ops import checkout, snapshot, status
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.ops.conftest import Unmoved, edit, git, state_bytes, train_one

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_a_day_is_pinned_as_an_annotated_tag(trained: Layout) -> None:
    made = snapshot.snapshot(trained, "Before the holidays", now=NOON)
    assert (made.day, made.tag) == ("2026-11-20", "snapshot/2026-11-20")
    assert (made.time, made.message) == (NOON, "Before the holidays")
    assert made.commit.batch == 3
    assert made.commit.snapshots == ("2026-11-20",)
    assert git(trained, "cat-file", "-t", made.tag) == "tag"
    assert git(trained, "rev-parse", f"{made.tag}^{{commit}}") == made.commit.commit
    assert status.status(trained).last_snapshot == "2026-11-20"


def test_without_a_message_it_says_what_is_pinned(trained: Layout) -> None:
    made = snapshot.snapshot(trained, now=NOON)
    assert made.message.startswith("Snapshot of 2026-11-20: Batch 3: day-2.jsonl")


def test_asked_again_it_answers_the_same(trained: Layout) -> None:
    made = snapshot.snapshot(trained, "first", now=NOON)
    assert snapshot.snapshot(trained, "second", now=NOON.replace(hour=20)) == made


def test_a_pinned_day_is_never_overwritten(trained: Layout, batches: list[Path]) -> None:
    made = snapshot.snapshot(trained, now=NOON)
    train_one(trained, batches[0], again=True)
    with Unmoved(trained), pytest.raises(RepoError, match="never overwritten") as caught:
        snapshot.snapshot(trained, now=NOON)
    assert made.commit.short in caught.value.message
    assert git(trained, "rev-parse", f"{made.tag}^{{commit}}") == made.commit.commit


def test_the_day_is_that_of_mvc_toml_s_zone(trained: Layout) -> None:
    edit(trained, 'snapshot.zone="Pacific/Auckland"')
    assert snapshot.snapshot(trained, now=NOON).day == "2026-11-21"


def test_the_newest_day_is_listed_first(trained: Layout) -> None:
    assert snapshot.snapshots(trained) == []
    for day in (3, 20, 11):
        snapshot.snapshot(trained, now=NOON.replace(day=day))
    days = [each.day for each in snapshot.snapshots(trained)]
    assert days == ["2026-11-20", "2026-11-11", "2026-11-03"]


def test_the_pinned_state_comes_back(trained: Layout, batches: list[Path]) -> None:
    pinned = state_bytes(trained)
    snapshot.snapshot(trained, now=NOON)
    train_one(trained, batches[0], again=True)
    assert state_bytes(trained) != pinned
    result = checkout.checkout(trained, "2026-11-20")
    assert state_bytes(trained) == pinned
    assert result.branch is None
    assert train_one(trained, batches[0], again=True).branch == "from-2026-11-20"


def test_a_second_writer_is_refused(trained: Layout) -> None:
    with Lock(trained, "mvc train x"), pytest.raises(LockHeld):
        snapshot.snapshot(trained, now=NOON)
    assert snapshot.snapshots(trained) == []
