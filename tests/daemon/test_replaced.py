"""A name that is used again while its file trains: what is new under it is trained in its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvc.daemon import loop
from mvc.engine import files
from mvc.engine.trainer import BatchTrainer
from mvc.errors import TrainingFailed
from mvc.ops import run, stream
from mvc.store.layout import Layout
from mvc.types import DataFile
from tests.daemon.conftest import batches_of, done, failed, fill, rows
from tests.daemon.test_parts import World
from tests.daemon.test_parts import rows as texts
from tests.ops.conftest import sound, states, train_one


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Has something done once, when that many steps of a batch are done."""
    todo: list[tuple[int, Callable[[], object]]] = []
    real = BatchTrainer.training_step

    def training_step(self: BatchTrainer, *args: object) -> torch.Tensor:
        for each in [each for each in todo if each[0] == self.batch.done]:
            todo.remove(each)
            each[1]()
        return real(self, *args)

    monkeypatch.setattr(BatchTrainer, "training_step", training_step)
    return lambda step, act: todo.append((step, act))


def replace(inbox: Path) -> None:
    """Put other rows into the place of latest.jsonl, as a producer does that always has one."""
    rows(inbox / ".new", 500, 8)
    (inbox / ".new").rename(inbox / "latest.jsonl")


def test_a_file_that_is_replaced_while_it_trains_is_trained_too(
    at: Layout, inbox: Path, at_step: Callable[..., None]
) -> None:
    rows(inbox / "latest.jsonl", 0, 8)
    at_step(2, lambda: replace(inbox))
    loop.run(at, inbox, once=True)
    assert [each.data.name for each in batches_of(at) if each.data] == 2 * ["latest.jsonl"]
    assert done(inbox) == ["latest.jsonl"]  # the first one's rows are in its commit alone
    assert sound(at)


def test_a_file_that_grows_while_it_trains_is_trained_again_as_it_is_then(
    at: Layout, inbox: Path, at_step: Callable[..., None]
) -> None:
    path = rows(inbox / "latest.jsonl", 0, 8)
    more = rows(inbox.parent / "more.jsonl", 500, 2).read_text()
    at_step(2, lambda: path.write_text(path.read_text() + more))
    loop.run(at, inbox, once=True)
    assert [each.data.rows for each in batches_of(at) if each.data] == [8, 10]
    assert done(inbox) == ["latest.jsonl"]


def test_what_took_the_name_of_a_batch_that_failed_is_not_set_aside(
    at: Layout, inbox: Path, at_step: Callable[..., None]
) -> None:
    def fail() -> None:
        replace(inbox)
        raise TrainingFailed("it did not learn", "look")

    rows(inbox / "latest.jsonl", 0, 8)
    at_step(2, fail)
    loop.run(at, inbox, once=True)
    assert len(batches_of(at)) == 1
    assert done(inbox) == ["latest.jsonl"]
    assert not (inbox / "failed").exists() or failed(inbox) == []


def test_a_file_that_is_replaced_while_its_parts_train_is_trained_too(tmp_path: Path) -> None:
    world = World(tmp_path, max_steps=10)
    world.put("a.jsonl", *texts(0, 20))
    first, second = world.ready()
    for part in (first, second):
        world.train(part)
        world.parts.done(part)
        world.put("a.jsonl", *texts(100, 5))
    assert world.done() == []
    assert world.work() == ["a.jsonl"]
    assert world.learned == texts(0, 20) + texts(100, 5)


def test_a_file_that_is_replaced_while_it_trains_with_others_is_trained_too(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, min_steps=10)
    for i, name in enumerate(["a.jsonl", "b.jsonl", "c.jsonl"]):
        world.put(name, *texts(4 * i, 4))
    (joined,) = world.ready()
    world.train(joined)
    world.put("b.jsonl", *texts(100, 12))
    world.parts.done(joined)
    assert world.done() == ["a.jsonl", "c.jsonl"]
    assert world.work() == ["b.jsonl"]
    assert world.learned == texts(0, 12) + texts(100, 12)


def test_what_took_the_name_of_a_joined_file_is_not_set_aside_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, min_steps=10)
    for i, name in enumerate(["a.jsonl", "b.jsonl", "c.jsonl"]):
        world.put(name, *texts(4 * i, 4))
    (joined,) = world.ready()
    world.parts.identify(joined)
    world.put("b.jsonl", *texts(100, 12))
    world.parts.failed(joined, TrainingFailed("the loss exploded", "lower the rate"))
    assert sorted(path.suffix for path in (world.folder / "failed").iterdir()) == [
        *2 * [".jsonl"],
        *2 * [".txt"],
    ]
    assert world.work() == ["b.jsonl"]


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_is_still_written_to_is_left_alone_and_trained_when_it_rests(
    gone: bool, at: Layout, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(inbox, 2, num_rows=8)
    more = rows(inbox.parent / "more.jsonl", 500, 2).read_text()
    real, changed = run.begin, []

    def begin(at: Layout, data: DataFile, *args: Any, **words: Any) -> Any:
        if not changed:
            changed.append(data.name)
            text = data.path.read_text() + more
            data.path.unlink() if gone else data.path.write_text(text)
        return real(at, data, *args, **words)

    monkeypatch.setattr(run, "begin", begin)
    loop.run(at, inbox, once=True)
    assert changed == [paths[0].name]
    assert not (inbox / "failed").exists() or failed(inbox) == []
    numbers = {each.data.name: each.data.rows for each in batches_of(at) if each.data}
    assert numbers == ({} if gone else {paths[0].name: 10}) | {paths[1].name: 8}


def test_a_disk_that_fails_is_waited_for_and_the_file_not_blamed(
    at: Layout, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = fill(inbox, 1)
    monkeypatch.setattr(loop, "_RETRY_S", (0.0,))
    real, broken = hashlib.file_digest, [OSError(5, "Input/output error"), OSError(24, "Too many")]

    def file_digest(*args: Any) -> Any:
        if broken:
            raise broken.pop()
        return real(*args)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    loop.run(at, inbox, should_stop=lambda: not path.exists())
    assert not broken and done(inbox) == [path.name]


def test_what_changes_while_it_is_read_ahead_is_trained_as_it_is(
    at: Layout, inbox: Path, new_model: Callable[..., Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, later = rows(inbox / "a.jsonl", 0, 8), rows(inbox.parent / "b.jsonl", 500, 8)
    before = path.read_bytes()
    real = files.read

    def read(found: Path) -> files.Records:
        monkeypatch.setattr(files, "read", real)
        path.write_bytes(later.read_bytes())
        try:
            return real(found)
        finally:
            path.write_bytes(before)

    identify, seen = files.identify, []

    def identified(found: Path) -> DataFile:
        """The file is the old one when it is hashed, and another when it is hashed once more."""
        seen.append(found)
        if len(seen) == 2:
            return identify(later)
        return identify(found)

    line = stream.Stream(at, "test")
    line.open()
    data = files.identify(path)
    monkeypatch.setattr(files, "read", read)
    monkeypatch.setattr(files, "identify", identified)
    line.train(data)
    line.close()
    monkeypatch.undo()
    other = new_model("train.checkpoint_steps=1", name="other")
    train_one(other, path)
    assert states(at) == states(other)
