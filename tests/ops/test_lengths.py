"""Records over `max_length`: counted, said aloud, and never taken for trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.errors import UsageError
from mvc.ops import train
from mvc.store.layout import Layout
from tests.ops.conftest import Heard, train_one, write_batch


def long_prompts(path: Path) -> Path:
    """Ten records of which eight have prompts that leave no room for what is to be learned."""
    rows = [{"prompt": "p" * (200 if i else 3), "completion": "c" * 5} for i in range(9)]
    rows.append({"prompt": "p", "completion": "c" * 100})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_records_that_were_not_trained_are_told_in_the_commit(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    at, heard = new_model("train.warmup_steps=0"), Heard()
    path = long_prompts(tmp_path / "long.jsonl")
    (plan,) = train.dry_run(at, [path])
    assert (plan.num_rows, plan.num_dropped, plan.num_truncated) == (10, 8, 9)
    assert plan.num_sequences == 2
    commit = train_one(at, path, progress=heard).commit
    assert commit.warnings == (
        "8 of 10 records had nothing to train within 32 tokens and were left out",
        "1 of 10 records were cut off at 32 tokens",
    )
    assert set(commit.warnings) <= set(heard.notes)


def test_texts_that_were_split_are_told_but_no_fault(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    at, heard = new_model(), Heard()
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "word " * 60}) + "\n")
    commit = train_one(at, path, progress=heard).commit
    assert commit.warnings == ()
    assert "1 of 1 records were split at 32 tokens (none is lost)" in heard.notes


def test_a_dump_never_overwrites_its_data_or_the_repo(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    at = new_model()
    data = write_batch(tmp_path / "rows.jsonl", 0)
    before = data.read_bytes()
    for target in (data, at.config):
        with pytest.raises(UsageError, match="would overwrite"):
            train.dry_run(at, [data], dump=target)
    assert data.read_bytes() == before
    out = tmp_path / "out.jsonl"
    train.dry_run(at, [data], dump=out)
    train.dry_run(at, [data], dump=out)
    assert len(out.read_text().splitlines()) == 8


def test_every_file_is_checked_before_the_first_is_trained(
    new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    from mvc.errors import DataError
    from mvc.store import history

    at = new_model("train.assistant_only=true")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text((json.dumps({"messages": turns}) + "\n") * 8)
    bad.write_text(json.dumps({"messages": turns[:1]}) + "\n")
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: no trainable token"):
        list(train.train(at, [good, bad]))
    assert len(history.log(at.root)) == 1
