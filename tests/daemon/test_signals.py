"""Signals to a real daemon process: SIGTERM keeps the step's work, SIGHUP tries again at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mvc.cli import main
from mvc.daemon import loop, status
from mvc.engine.checkpoint import by_number
from mvc.engine.trainer import BatchTrainer
from mvc.ops import run
from mvc.store.layout import Layout
from tests.daemon.conftest import TEXT, batches_of, fill, rows, state, until
from tests.ops.conftest import edit, sound


def watching(at: Layout, inbox: Path, step_s: float) -> int:
    """`mvc watch` in a process of its own, each micro-batch of which takes `step_s` seconds."""
    pid = os.fork()
    if pid:
        return pid
    real = BatchTrainer.training_step

    def training_step(self: BatchTrainer, *args: Any, **kwargs: Any) -> Any:
        time.sleep(step_s)
        return real(self, *args, **kwargs)

    code = 1
    try:
        BatchTrainer.training_step = training_step
        os.chdir(at.root)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        code = main.run(["watch", str(inbox)])
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int:
    """The exit code of a process that ends within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"it was alive after {seconds} seconds")


def test_sigterm_ends_within_ten_seconds_and_keeps_the_step(
    at: Layout, inbox: Path, tmp_path: Path
) -> None:
    edit(at, "train.checkpoint_steps=0")
    fill(inbox, 1, num_rows=40)
    pid = watching(at, inbox, 1.0)
    until(lambda: (told := status.read(at)) is not None and told.step >= 2)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid, 10) == 0
    ((step, _),) = by_number(at.run / "checkpoints")
    assert step >= 2
    assert run.interrupted(at) == (inbox / "day-000.jsonl").resolve()
    told = status.read(at)
    assert told is not None and told.state == "stopped"
    assert sound(at)


def test_sighup_tries_again_at_once(
    at: Layout, inbox: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    edit(at, f"base.model={base}")
    hidden = base.rename(tmp_path / "hidden")
    monkeypatch.setattr("mvc.daemon.loop._RETRY_S", (600.0,))
    fill(inbox, 1)
    pid = watching(at, inbox, 0)
    try:
        until(lambda: state(at) == "waiting")
        hidden.rename(base)
        os.kill(pid, signal.SIGHUP)
        until(lambda: len(batches_of(at)) == 1)
        os.kill(pid, signal.SIGTERM)
        assert ended(pid, 10) == 0
    except BaseException:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
        raise


@pytest.fixture
def huge(inbox: Path) -> Path:
    """A file that takes a minute or more to tokenise."""
    path = inbox / "huge.jsonl"
    with path.open("w") as file:
        for i in range(60_000):
            start = 37 * i % (len(TEXT) - 400)
            file.write(json.dumps({"text": TEXT[start : start + 300]}) + "\n")
    return path


@pytest.mark.parametrize("first", [True, False])
def test_sigterm_does_not_wait_until_a_large_file_is_read(
    first: bool, at: Layout, inbox: Path, huge: Path
) -> None:
    # A real process, whose end is Python's own too: nobody waits for a thread there.
    if not first:
        rows(inbox / "day-000.jsonl", 0, 4000)
    program = [sys.executable, "-c", "from mvc.cli.main import main; main()", "watch", str(inbox)]
    process = subprocess.Popen(
        program, cwd=at.root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        if first:
            until(lambda: state(at) == "training")
        else:
            until(lambda: (told := status.read(at)) is not None and told.step >= 2)
        time.sleep(3)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    assert time.monotonic() - begun < 10
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert huge.exists()
    assert bool(by_number(at.run / "checkpoints")) is not first
    assert sound(at)


def hang(*args: Any, **kwargs: Any) -> Any:
    """Something of minutes, that no exception of ours ends."""
    Path(os.environ["HANGS"]).touch()
    while True:
        with suppress(Exception):
            time.sleep(0.1)


@pytest.mark.parametrize("what", ["mvc.engine.base.load_model", "mvc.engine.gate.loss"])
def test_sigterm_ends_what_comes_before_the_first_step(
    what: str, at: Layout, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = rows(tmp_path / "held-out.jsonl", 700, 8)
    edit(at, f"gate.data={held_out}")
    fill(inbox, 1)
    monkeypatch.setenv("HANGS", str(tmp_path / "hangs"))
    monkeypatch.setattr(what, hang)
    pid = watching(at, inbox, 0)
    until((tmp_path / "hangs").exists)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid, 10) == 0
    monkeypatch.undo()
    loop.run(at, inbox, once=True)
    assert len(batches_of(at)) == 1 and sound(at)
