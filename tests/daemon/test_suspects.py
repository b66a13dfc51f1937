"""Errors that blame no data: a broken device costs no file its place, a poisonous one is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvc.daemon import loop, status
from mvc.daemon.suspects import Suspects
from mvc.engine.trainer import BatchTrainer
from mvc.errors import EngineError
from mvc.store.layout import Layout
from mvc.types import DataFile
from tests.daemon.conftest import batches_of, done, failed, fill, rows, state, until
from tests.ops.conftest import sound

LOST = "CUDA error: an illegal memory access was encountered"


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], bool]], None]:
    """Has every step of the batches fail whose name `when` says yes to."""
    real = BatchTrainer.training_step

    def breaks(when: Callable[[str], bool]) -> None:
        def training_step(self: BatchTrainer, *args: object) -> torch.Tensor:
            if when(self.batch.job.data_name):
                raise RuntimeError(LOST)
            return real(self, *args)

        monkeypatch.setattr(BatchTrainer, "training_step", training_step)

    return breaks


def names(at: Layout) -> list[str]:
    return [each.data.name for each in batches_of(at) if each.data]


def set_aside(inbox: Path) -> list[str]:
    found = failed(inbox) if (inbox / "failed").exists() else []
    return [name for name in found if ".why" not in name]


def test_a_broken_device_sets_no_file_aside_however_often_it_is_tried(
    at: Layout, inbox: Path, breaks: Callable[..., None]
) -> None:
    # A device that broke fails every file: the inbox must not be emptied into failed/.
    days = [path.name for path in fill(inbox, 4)]
    breaks(lambda name: True)
    for _ in range(7):
        with pytest.raises(EngineError, match="illegal memory access") as caught:
            loop.run(at, inbox, once=True)
        assert "mvc watch" in caught.value.hint
    assert set_aside(inbox) == [] and names(at) == []
    breaks(lambda name: False)
    loop.run(at, inbox, once=True)
    assert done(inbox) == days and len(names(at)) == 4
    assert sound(at)


def test_what_failed_once_has_its_turn_in_the_next_process(
    at: Layout, inbox: Path, breaks: Callable[..., None]
) -> None:
    days = [path.name for path in fill(inbox, 3)]
    breaks(lambda name: name == days[1])
    with pytest.raises(EngineError, match=days[1]):
        loop.run(at, inbox, once=True)
    breaks(lambda name: False)
    loop.run(at, inbox, once=True)
    assert names(at) == days


def test_in_a_device_that_one_file_broke_no_other_is_blamed(
    at: Layout, inbox: Path, breaks: Callable[..., None]
) -> None:
    days = [path.name for path in fill(inbox, 4)]
    broken = [False]

    def when(name: str) -> bool:
        broken[0] = broken[0] or name == days[1]
        return broken[0]

    breaks(when)
    for expected in (days[:1], days[:1], [days[0], days[2]]):
        broken[0] = False
        with pytest.raises(EngineError):
            loop.run(at, inbox, once=True)
        assert names(at)[: len(expected)] == expected
    assert set_aside(inbox) == [days[1]]
    broken[0] = False
    loop.run(at, inbox, once=True)
    assert names(at) == [days[0], days[2], days[3]]
    assert sound(at)


def test_a_file_that_fails_alone_is_waited_with_and_not_set_aside(
    at: Layout,
    inbox: Path,
    breaks: Callable[..., None],
    daemon: Callable[[], threading.Thread],
) -> None:
    (path,) = fill(inbox, 1)
    breaks(lambda name: name == path.name)
    for _ in range(2):
        with pytest.raises(EngineError):
            loop.run(at, inbox)
    daemon()
    until(lambda: state(at) == "waiting")
    told = status.read(at)
    assert told is not None and "broke off in 2 processes" in told.why
    assert path.exists()
    breaks(lambda name: False)
    until(lambda: done(inbox) == [path.name])


def test_suspicion_outlives_the_process_and_ends_with_the_file(at: Layout, inbox: Path) -> None:
    path = rows(inbox / "a.jsonl", 0, 4)
    data = DataFile(path, path.name, 1, "a" * 32)
    assert not Suspects(at).failed(data)
    assert [Suspects(at).failures(path), Suspects(at).place(path)] == [1, 0]
    assert not Suspects(at).failed(data)
    later = Suspects(at)
    assert later.place(path) == 1 and later.alone(path)
    later.trained("b" * 32)
    assert not later.alone(path)
    assert later.failed(data)
    assert Suspects(at).failures(path) == 0
    assert not Suspects(at).failed(data)
    path.unlink()
    assert Suspects(at).failures(path) == 0
    (at.watch / "suspects.json").write_bytes(b"\xff{")
    assert Suspects(at).failures(path) == 0
