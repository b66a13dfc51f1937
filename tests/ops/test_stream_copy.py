"""The copy that a state is written from, while the next batch trains on it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mvc.engine import files, live, trainer
from mvc.ops import stream
from mvc.store.layout import Layout
from tests.ops.conftest import states


def test_a_batch_begins_while_the_state_before_it_is_copied_and_does_not_step_on_it(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, stepped = threading.Event(), []
    copy, before = live.Clone._copy, trainer.Beginning.on_pre_optimizer_step

    def late(self: live.Clone, *args: Any) -> None:
        assert ready.wait(60)  # the next batch's first gradients do not wait for the copy
        live.copied(torch.zeros(1 << 26))  # and it takes its time
        copy(self, *args)

    def on_pre_optimizer_step(*args: object, **kwargs: object) -> None:
        ready.set()
        before(*args, **kwargs)

    def on_step(*_: object) -> None:
        ready.clear()
        stepped.append([each.name for each in threading.enumerate() if each.name == "mvc-clone"])

    line = stream.Stream(at, "test")
    line.open()
    line.train(files.identify(batches[0]))
    line.drain()
    monkeypatch.setattr(live.Clone, "_copy", late)
    monkeypatch.setattr(trainer.Beginning, "on_pre_optimizer_step", on_pre_optimizer_step)
    hook = register_optimizer_step_pre_hook(on_step)
    try:
        for path in batches[1:]:
            line.train(files.identify(path))
        ready.set()
        line.close()
    finally:
        hook.remove()
    assert stepped and not any(stepped)
    assert states(at) == alone


def test_a_copy_takes_the_memory_of_one_that_was_written(
    at: Layout, batches: list[Path], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, seen = live.Clone.result, []

    def noted(self: live.Clone) -> live.LiveState:
        found = result(self)
        moments = [each["exp_avg_sq"] for each in found.optimizer["state"].values()]
        seen.append([each.data_ptr() for each in (*found.adapter.values(), *moments)])
        return found

    monkeypatch.setattr(live.Clone, "result", noted)
    line = stream.Stream(at, "test")
    line.open()
    for path in batches:
        line.train(files.identify(path))
        line.drain()
    line.close()
    assert len(seen) == len(batches) > 2 and len(seen[0]) > 2
    assert all(each == seen[0] for each in seen)
    assert states(at) == alone


def test_a_copy_leaves_alone_what_does_not_fit() -> None:
    kept, value = torch.zeros(3), {"a": torch.ones(3), "b": torch.ones(2, 3).T}
    for spare in (
        {"a": kept.double(), "b": torch.zeros(3, 2)},
        {"a": torch.zeros(4)},
        [kept],
        None,
    ):
        copy = live.copied(value, spare)
        assert all(torch.equal(copy[name], value[name]) for name in value)
        assert all(copy[name].stride() == value[name].stride() for name in value)
    assert kept.tolist() == [0, 0, 0]
    assert live.copied(value, {"a": kept})["a"] is kept and kept.tolist() == [1, 1, 1]
