"""Pausing and going on, with another process that really holds the line."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mvc.daemon import control
from mvc.daemon.status import Board
from mvc.errors import LockHeld, RepoError
from mvc.ops import checkout
from mvc.store import lock
from mvc.store.layout import Layout
from mvc.types import Silent
from tests.cli import fakes
from tests.daemon.test_status import Clock


class Stages(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def at(tmp_path: Path) -> Layout:
    return Layout(fakes.empty_repo(tmp_path / "model"))


class Daemon(threading.Thread):
    """Holds line and lock as `mvc watch` does, and lets go of the line `delay_s` after asked."""

    def __init__(self, at: Layout, delay_s: float = 0.0) -> None:
        super().__init__()
        self.at, self.delay_s = at, delay_s
        self.ready, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        with Board(self.at, Path("/inbox"), Clock()) as board:
            board.update(state="training", batch="monday.jsonl", num_steps=12)
            while not self.ended.is_set():
                with lock.Line(self.at, "mvc watch /inbox"):
                    self.ready.set()
                    while not control.wanted(self.at) and not self.ended.is_set():
                        time.sleep(0.01)
                    self.ended.wait(self.delay_s)
                while control.wanted(self.at) and not self.ended.is_set():
                    time.sleep(0.01)

    def __enter__(self) -> Daemon:
        self.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()


def test_a_checkout_beside_a_daemon_is_refused_with_the_way_out(at: Layout) -> None:
    with Daemon(at), pytest.raises(LockHeld, match="`mvc watch /inbox`") as caught:
        checkout.checkout(at, "@1")
    assert "mvc watch --pause" in caught.value.hint


def test_pause_returns_when_the_line_is_free(at: Layout) -> None:
    with Daemon(at, delay_s=0.5):
        stages = Stages()
        begun = time.monotonic()
        who = control.pause(at, progress=stages)
        assert 0.4 < time.monotonic() - begun < 10
        assert who is not None
        assert "`mvc watch /inbox`" in who
        assert stages.heard == ["Waiting for the daemon to finish monday.jsonl (12 steps)"]
        with lock.Lock(at, "mvc checkout @1", moves=True):
            pass
        assert control.pause(at) is not None  # asked again: it is paused already
        assert control.resume(at) is not None
        until = time.monotonic() + 10
        while lock.trainer(at) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert "mvc watch" in (lock.trainer(at) or "")


def test_pausing_gives_up_and_the_request_stands(at: Layout) -> None:
    with Daemon(at, delay_s=60):
        with pytest.raises(LockHeld, match=r"has not paused after 0\.3 seconds") as caught:
            control.pause(at, timeout_s=0.3)
        assert "--resume" in caught.value.hint
        assert control.wanted(at)


def test_a_pause_that_is_taken_back_ends_the_waiting(at: Layout) -> None:
    with Daemon(at, delay_s=60):
        threading.Timer(0.3, control.resume, [at]).start()
        with pytest.raises(RepoError, match="told to go on"):
            control.pause(at, timeout_s=20)


def test_without_a_daemon_the_request_waits_for_one(at: Layout) -> None:
    assert control.pause(at) is None
    assert control.wanted(at)
    assert control.resume(at) is None
    assert not control.wanted(at)
    assert control.resume(at) is None


def test_another_command_that_trains_is_not_waited_for(at: Layout) -> None:
    """`mvc train` ends by itself; whoever pauses a daemon wants the daemon out of the way."""
    with lock.Line(at, "mvc train monday.jsonl"):
        assert control.pause(at, timeout_s=5) is None
