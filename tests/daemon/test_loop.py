"""The daemon whole: files that arrive become the line that `mvc train` would have made."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mvc.daemon import control, loop, status
from mvc.daemon.inbox import Inbox
from mvc.engine.trainer import BatchTrainer
from mvc.errors import LockHeld
from mvc.ops import checkout, train
from mvc.ops.stream import Stream
from mvc.store.layout import Layout
from tests.daemon.conftest import QUICK, batches_of, done, fill, state, until
from tests.ops.conftest import edit, git, sound, state_bytes, states, train_one


def test_a_hundred_files_are_to_the_bit_what_a_hundred_commands_make_of_them(
    at: Layout, inbox: Path, new_model: Callable[..., Layout], tmp_path: Path
) -> None:
    edit(at, "train.checkpoint_steps=0")
    other = new_model("train.checkpoint_steps=0", *QUICK, name="other")
    names = [path.name for path in fill(inbox, 100)]
    loop.run(at, inbox, once=True)
    assert done(inbox) == names
    for path in sorted((inbox / "done").rglob("*.jsonl")):
        train_one(other, path)
    assert states(at) == states(other)
    assert state_bytes(at) == state_bytes(other)
    assert [each.data.name for each in batches_of(at) if each.data] == names
    assert sound(at)


def child(at: Layout, inbox: Path) -> int:
    """A daemon in a process group of its own."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        code = 1
        try:
            loop.run(at, inbox, once=True)
            code = 0
        finally:
            os._exit(code)
    return pid


def test_fifty_kills_over_thirty_batches_change_nothing(
    at: Layout, inbox: Path, new_model: Callable[..., Layout]
) -> None:
    other = new_model("train.checkpoint_steps=1", *QUICK, name="other")
    names = [path.name for path in fill(inbox, 30)]
    list(train.train(other, sorted(inbox.iterdir())))
    chance, kills, alive = random.Random(7), 0, True
    while alive:
        pid = child(at, inbox)
        until = time.monotonic() + (chance.uniform(0.05, 2.0) if kills < 50 else 300)
        while time.monotonic() < until and alive:
            alive = not os.waitpid(pid, os.WNOHANG)[0]
            time.sleep(0.01)
        if alive:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        elif kills < 50 and len(done(inbox)) < 30:
            raise AssertionError("the daemon ended before the inbox was empty")
    assert done(inbox) == names
    assert [each.data.name for each in batches_of(at) if each.data] == names
    assert states(at) == states(other)
    assert sound(at)
    assert kills == 50


def test_a_second_daemon_is_refused_by_name_and_a_checkout_told_how_to_pause(
    at: Layout, inbox: Path, daemon: Callable[[], threading.Thread]
) -> None:
    daemon()
    until(lambda: state(at) == "idle")
    with pytest.raises(LockHeld, match=f"mvc watch {inbox}"):
        loop.run(at, inbox)
    with pytest.raises(LockHeld) as caught:
        checkout.checkout(at, "HEAD")
    assert "mvc watch --pause" in caught.value.hint


def test_a_paused_daemon_lets_others_move_head_and_goes_on_from_there(
    at: Layout, inbox: Path, daemon: Callable[[], threading.Thread]
) -> None:
    daemon()
    fill(inbox, 3)
    until(lambda: len(batches_of(at)) == 3)
    until(lambda: state(at) == "idle")
    control.pause(at, timeout_s=60)
    checkout.checkout(at, "@1")
    fill(inbox, 1, first=3)
    time.sleep(0.5)
    assert len(batches_of(at)) == 1
    control.resume(at)
    until(lambda: len(batches_of(at)) == 2)
    until(lambda: state(at) == "idle")
    branch = git(at, "symbolic-ref", "--short", "HEAD")
    assert branch == "from-batch-1"
    assert len(git(at, "rev-list", "main").split()) == 4


def test_settings_are_read_again_between_batches(
    at: Layout, inbox: Path, daemon: Callable[[], threading.Thread]
) -> None:
    daemon()
    fill(inbox, 1, num_rows=8)
    until(lambda: len(batches_of(at)) == 1)
    edit(at, "train.learning_rate=5e-3")
    fill(inbox, 1, num_rows=8, first=1)
    until(lambda: len(batches_of(at)) == 2)
    rates = [each.learning_rate.last for each in batches_of(at) if each.learning_rate]
    assert rates == [1e-2, 5e-3]


def test_quick_steps_that_log_nothing_are_signs_of_life_and_looks_at_a_full_inbox_rare(
    at: Layout, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(at, "train.logging_steps=1000", "train.checkpoint_steps=0")
    fill(inbox, 2, num_rows=60)
    ages: list[float] = []
    looks: list[str] = []
    read: list[str] = []
    step, look, ahead = BatchTrainer.training_step, Inbox.ready, Stream.read_ahead

    def training_step(self: BatchTrainer, *args: object) -> object:
        time.sleep(0.15)
        if told := status.read(at):
            ages.append((datetime.now(UTC) - told.written).total_seconds())
        looks.append("step")
        return step(self, *args)

    def ready(self: Inbox) -> list[Path]:
        looks.append("look")
        time.sleep(0.2)  # as of ten thousand files
        return look(self)

    def read_ahead(self: Stream, path: Path) -> None:
        read.append(f"{path.name} at step {looks.count('step')}")
        ahead(self, path)

    monkeypatch.setattr(BatchTrainer, "training_step", training_step)
    monkeypatch.setattr(Inbox, "ready", ready)
    monkeypatch.setattr(Stream, "read_ahead", read_ahead)
    loop.run(at, inbox, once=True)
    assert looks.count("step") == 60
    assert max(ages) < 3
    steps = [i for i, what in enumerate(looks) if what == "step"]
    assert looks[steps[0] : steps[29]].count("look") <= 1  # 4.5 s long
    assert "day-001.jsonl at step 1" in read
