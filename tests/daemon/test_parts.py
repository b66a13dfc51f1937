"""Small files joined, large ones split: by a plan on disk that a kill does not undo."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mvc.daemon import loop
from mvc.daemon import parts as module
from mvc.daemon.inbox import Inbox
from mvc.daemon.parts import Parts
from mvc.engine import files
from mvc.errors import BaseModelError, DataError, TrainingFailed
from mvc.settings import BaseSettings, Settings, TrainSettings, WatchSettings
from mvc.store.layout import Layout
from mvc.types import BatchPlan
from tests.daemon.conftest import batches_of, done, fill
from tests.ops.conftest import edit, sound, write_batch


def count(path: Path) -> BatchPlan:
    """A row is a step."""
    rows, data = len(files.read(path).rows), files.identify(path)
    return BatchPlan(data, rows, rows, rows, rows, 0, 0, 0, rows, 1, 1)


class World:
    """A repo, its inbox, and the daemon's view of them; the line is a set of md5."""

    def __init__(self, root: Path, **watch: object) -> None:
        self.at, self.folder = Layout(root / "model"), root / "in"
        self.folder.mkdir()
        self.line: list[str] = []
        self.learned: list[str] = []
        settled = WatchSettings(settle_seconds=0, **watch)  # type: ignore[arg-type]
        train = TrainSettings(micro_batch_size=1, packing=False)
        self.settings = Settings(base=BaseSettings(model="tiny"), train=train, watch=settled)
        self.ends = True
        self.plan: Callable[[Path], BatchPlan] = count
        self.restart()

    def restart(self) -> None:
        """The daemon died; another one is there."""
        inbox = Inbox(self.folder, self.settings.watch, ZoneInfo("UTC"))
        self.parts = Parts(
            self.at, inbox, lambda path: self.plan(path), self.ends, self.line.__contains__
        )

    def put(self, name: str, *texts: str, key: str = "text") -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
        time.sleep(0.01)
        return path

    def ready(self) -> list[Path]:
        """What is ready when the background has nothing left to do."""
        while True:
            self.parts._thread = None
            found = self.parts.ready(self.settings)
            if (thread := self.parts._thread) is None:
                return found
            thread.join()

    def names(self) -> list[str]:
        return [path.name for path in self.ready()]

    def train(self, path: Path) -> None:
        data = self.parts.identify(path)
        if data.md5 not in self.line:
            self.line.append(data.md5)
            self.learned += [row["text"] for row in files.read(path).rows]

    def work(self) -> list[str]:
        """Train until nothing is ready; the names of the batches."""
        names = []
        while ready := self.ready():
            names.append(ready[0].name)
            self.train(ready[0])
            self.parts.done(ready[0])
        return names

    def done(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "done").rglob("*.jsonl"))


def rows(first: int, number: int) -> list[str]:
    return [f"row {i}" for i in range(first, first + number)]


@pytest.fixture
def joining(tmp_path: Path) -> World:
    return World(tmp_path, min_steps=10)


@pytest.fixture
def splitting(tmp_path: Path) -> World:
    return World(tmp_path, max_steps=10)


def test_without_a_wish_a_file_is_a_batch(tmp_path: Path) -> None:
    world = World(tmp_path)
    paths = [world.put("a.jsonl", "x"), world.put("b.jsonl", *rows(0, 100))]
    assert world.ready() == paths
    assert not world.parts.folder.exists()


# --- joined -------------------------------------------------------------------------------------


def test_small_files_are_joined_in_their_order(joining: World) -> None:
    for i, name in enumerate(["c.jsonl", "a.jsonl", "b.jsonl", "d.jsonl"]):
        joining.put(name, *rows(4 * i, 4))
    joining.put("large.jsonl", *rows(16, 20))
    assert joining.names() == ["c-and-2-more", "d.jsonl", "large.jsonl"]
    assert joining.work() == ["c-and-2-more", "d.jsonl", "large.jsonl"]
    assert joining.learned == rows(0, 36)
    assert joining.done() == ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl", "large.jsonl"]
    assert not list(joining.parts.folder.iterdir())


def test_small_files_wait_for_others_but_not_for_ever(joining: World) -> None:
    joining.ends = False
    joining.restart()
    for name in ("a.jsonl", "b.jsonl"):
        joining.put(name, *rows(0, 2))
    assert joining.names() == []
    joining.settings = Settings(
        base=joining.settings.base,
        train=joining.settings.train,
        watch=WatchSettings(settle_seconds=0, min_steps=10, join_seconds=0.01),
    )
    assert joining.names() == ["a-and-1-more"]


def test_in_the_end_a_file_that_may_still_grow_is_waited_for(joining: World) -> None:
    joining.put("a.jsonl", *rows(0, 2))
    joining.parts.inbox.settings = WatchSettings(settle_seconds=60)
    joining.put("b.jsonl", *rows(2, 2))
    joining.parts.inbox._seen = {}
    assert joining.names() == []
    joining.parts.inbox.settings = WatchSettings(settle_seconds=0)
    assert joining.names() == ["a-and-1-more"]


def test_files_that_cannot_be_one_batch_are_not_joined(joining: World) -> None:
    joining.put("a.jsonl", *rows(0, 2))
    joining.put("b.jsonl", *rows(2, 2))
    (joining.folder / "chat.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    time.sleep(0.01)
    (joining.folder / "broken.jsonl").write_text("{\n")
    time.sleep(0.01)
    (joining.folder / "day").mkdir()
    joining.put("day/x.jsonl", *rows(4, 2))
    assert joining.names() == ["a-and-1-more", "chat.jsonl", "broken.jsonl", "day"]


def test_the_joined_do_not_grow_above_the_largest(tmp_path: Path) -> None:
    world = World(tmp_path, min_steps=10, max_steps=12)
    for i in range(4):
        world.put(f"{i}.jsonl", *rows(7 * i, 7))
    assert world.names() == [f"{i}.jsonl" for i in range(4)]


# --- split --------------------------------------------------------------------------------------


def test_a_large_file_is_split_in_its_order(splitting: World) -> None:
    splitting.put("a.jsonl", *rows(0, 3))
    splitting.put("large.jsonl", *[f"{'x' * (i % 7 * 30)}{i}" for i in range(35)])
    splitting.put("z.jsonl", *rows(0, 10))
    assert splitting.names()[0] == "a.jsonl" and splitting.names()[-1] == "z.jsonl"
    sizes = [count(path).num_steps for path in splitting.ready()[1:-1]]
    assert sum(sizes) == 35 and max(sizes) <= 10 and len(sizes) <= 7
    worked = splitting.work()
    assert worked[1] == f"large.part-1-of-{len(sizes)}.jsonl"
    assert [text.lstrip("x") for text in splitting.learned[3:38]] == [str(i) for i in range(35)]
    assert splitting.done() == ["a.jsonl", "large.jsonl", "z.jsonl"]


def test_a_record_that_outweighs_all_others_is_a_part(splitting: World) -> None:
    splitting.put("a.jsonl", "x" * 10_000, *rows(1, 14))
    splitting.work()
    assert splitting.learned[1:] == rows(1, 14)


def test_what_the_records_hold_survives(splitting: World) -> None:
    texts = ["a\u2028b", "\U0001f600\x85", 'quo"te\n', *rows(0, 10)]
    splitting.put("a.jsonl", *texts)
    splitting.work()
    assert splitting.learned == texts


def test_the_file_is_done_with_when_all_its_parts_are(splitting: World) -> None:
    source = splitting.put("a.jsonl", *rows(0, 20))
    first, second = splitting.ready()
    splitting.train(first)
    splitting.parts.done(first)
    assert source.exists() and splitting.ready() == [second]
    splitting.restart()
    assert splitting.ready() == [second]
    splitting.train(second)
    splitting.parts.done(second)
    assert splitting.done() == ["a.jsonl"] and splitting.learned == rows(0, 20)


def test_after_a_restart_a_part_does_not_overtake_a_file(splitting: World) -> None:
    path = splitting.put("a.jsonl", *rows(0, 3))
    splitting.put("large.jsonl", *rows(3, 20))
    assert len(splitting.ready()) == 3
    splitting.restart()
    seen = [splitting.parts.ready(splitting.settings)[:1] for _ in range(20)]
    assert [path] in seen and all(each in ([], [path]) for each in seen)


# --- failures and kills -------------------------------------------------------------------------


def test_a_part_that_fails_sets_the_file_aside_and_tells_what_was_trained(splitting: World) -> None:
    splitting.put("a.jsonl", *rows(0, 30))
    parts = splitting.ready()
    splitting.train(parts[0])
    splitting.parts.done(parts[0])
    why = splitting.parts.failed(parts[1], TrainingFailed("the loss exploded", "lower the rate"))
    assert why is not None and why.name == "a.jsonl.why.txt"
    assert "the loss exploded" in why.read_text()
    assert "Trained before it, and kept: a.part-1-of-3.jsonl." in why.read_text()
    assert splitting.ready() == []
    splitting.parts.done(parts[0])  # the writer comes late: there is nothing left to do
    (splitting.folder / "failed" / "a.jsonl").rename(splitting.folder / "a.jsonl")
    splitting.work()
    assert splitting.learned == rows(0, 30)


def test_all_that_was_joined_is_set_aside(joining: World) -> None:
    for i in range(3):
        joining.put(f"{i}.jsonl", *rows(4 * i, 4))
    joining.parts.failed(joining.ready()[0], DataError("nonsense", "look at it"))
    found = sorted(path.name for path in (joining.folder / "failed").glob("*.jsonl"))
    assert found == ["0.jsonl", "1.jsonl", "2.jsonl"] and joining.ready() == []


def test_a_file_that_changes_while_it_is_copied_is_taken_as_it_is_then(
    joining: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [joining.put("a.jsonl", *rows(0, 4)), joining.put("b.jsonl", *rows(4, 6))]

    def copied(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        if source == paths[1] and len(joining.learned) == 0 and source.stat().st_size < 200:
            source.write_text(source.read_text() + json.dumps({"text": "x" * 200}) + "\n")

    monkeypatch.setattr(module.shutil, "copyfile", copied)
    joining.work()
    assert joining.learned == [*rows(0, 10), "x" * 200]


@pytest.mark.parametrize("watch", [{"min_steps": 10}, {"max_steps": 3}])
def test_killed_at_any_rename_or_removal_nothing_is_trained_twice(
    tmp_path: Path, watch: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, **watch)
    for i in range(6):
        world.put(f"{i}.jsonl", *rows(4 * i, 4))
    left = 0

    def dying(name: str) -> None:
        real = getattr(os, name)

        def die(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left <= 0:
                raise KeyboardInterrupt  # nor does it clean up any more
            return real(*args, **more)

        monkeypatch.setattr(os, name, die)

    # In one thread, so that its death ends all.
    monkeypatch.setattr(module.threading.Thread, "start", lambda thread: thread.run())
    monkeypatch.setattr(module.threading.Thread, "join", lambda *_: None)
    for name in ("rename", "mkdir", "unlink", "rmdir", "replace"):
        dying(name)
    kills = 0
    for at in range(1, 60):
        left = at % 13 + 1
        try:
            world.restart()
            world.work()
        except KeyboardInterrupt:
            kills += 1
    left = 10_000
    world.restart()
    world.work()
    assert world.learned == rows(0, 24)
    assert world.done() == [f"{i}.jsonl" for i in range(6)]
    assert kills > 5
    assert not list(world.parts.folder.iterdir())


def test_a_file_that_comes_again_is_not_trained_again(joining: World) -> None:
    for i in range(3):
        joining.put(f"{i}.jsonl", *rows(4 * i, 4))
    joining.work()
    joining.restart()
    joining.put("again.jsonl", *rows(4, 4))
    joining.put("new.jsonl", *rows(12, 4))
    assert joining.work() == ["new.jsonl"]
    assert joining.learned == rows(0, 16) and "again.jsonl" in joining.done()
    joining.line.clear()  # rolled back: what it taught is gone
    joining.put("again.jsonl", *rows(4, 4))
    assert joining.work() == ["again.jsonl"]


def test_what_cannot_be_counted_for_another_s_fault_is_raised_and_tried_again(
    joining: World,
) -> None:
    joining.put("a.jsonl", *rows(0, 12))

    def broken(path: Path) -> BatchPlan:
        raise BaseModelError("the base is gone", "bring it back")

    joining.plan = broken
    with pytest.raises(BaseModelError):
        for _ in range(3):
            joining.parts.ready(joining.settings)
    joining.plan = count
    assert joining.names() == ["a.jsonl"]


def test_the_daemon_trains_what_was_joined_and_split(at: Layout, inbox: Path) -> None:
    edit(at, "watch.min_steps=4", "watch.max_steps=5")
    fill(inbox, 3)  # two steps each
    write_batch(inbox / "day-900.jsonl", 40, 24)
    loop.run(at, inbox, once=True)
    told = [(each.data and each.data.name, each.steps) for each in batches_of(at)]
    assert told[:2] == [("day-000-and-1-more", 4), ("day-002.jsonl", 2)]
    assert [name for name, _ in told[2:]] == [f"day-900.part-{i}-of-3.jsonl" for i in (1, 2, 3)]
    assert 12 <= sum(steps for _, steps in told[2:]) <= 14
    assert max(steps for _, steps in told) <= 5
    assert done(inbox) == ["day-000.jsonl", "day-001.jsonl", "day-002.jsonl", "day-900.jsonl"]
    assert sound(at)
