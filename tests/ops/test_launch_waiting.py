"""Who waits for others that refuse, that never come, or that were told to stop."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from mvc.ops import trust
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import edit, write_batch
from tests.ops.launching import (
    HERE,
    MVC,
    ended,
    free_port,
    make_model,
    srun,
    train_on,
    two_machines,
    wait_for,
)

pytestmark = pytest.mark.slow
SOON_S = 15


@pytest.fixture
def made(tiny_base: Path, tmp_path: Path) -> tuple[Layout, Path]:
    """A model and a batch; the model is in a folder of its own."""
    (tmp_path / "owner").mkdir()
    at, data = make_model(tmp_path / "owner", tiny_base)
    return at, data.rename(tmp_path / "day.jsonl")


def test_the_other_machine_hears_why_the_first_refuses(
    made: tuple[Layout, Path], tmp_path: Path
) -> None:
    at, data = made
    data.write_text("no row\n")
    with two_machines(hidden=at.root.parent) as machines:
        _, running = train_on(machines, at, data, tmp_path)
        (owner, first), (other, second) = map(ended, running)
    assert (owner, other) == (1, 1), (first, second)
    why = first.split("Error: ")[1].splitlines()[0]
    assert f"Error: process 0: {why}" in second, (first, second)


def test_a_machine_that_the_network_loses_ends_the_batch_for_all(
    made: tuple[Layout, Path], tmp_path: Path
) -> None:
    """No connection closes; while the ranks live, a wait longer than the limit is legal."""
    at, data = made
    write_batch(data, 0, 200)
    with two_machines(hidden=at.root.parent) as machines:
        if not machines[1].prefix:
            pytest.skip("this machine gives no network namespaces")
        limits = {"MVC_BEAT_S": "0.5", "MVC_LOST_S": "10"}
        _, running = train_on(machines, at, data, tmp_path, **limits)
        wait_for(at.run / "checkpoints" / "checkpoint-3", running[0])
        unplug = ["ip", "link", "set", "eth1", "down"]
        subprocess.run([*machines[1].prefix, *unplug], check=True)
        since = time.monotonic()
        (owner, first), (other, second) = map(ended, running)
    assert (owner, other) == (1, 1), (first, second)
    assert time.monotonic() - since < 2 * SOON_S
    assert "process 1 was not heard of for 10 seconds" in first, first
    assert "goes on from the last checkpoint" in first, first
    assert "process 0 was not heard of for 10 seconds" in second, second
    assert len(history.log(at.root, "HEAD")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_machine_that_waits_alone_ends_at_once(
    made: tuple[Layout, Path], number: signal.Signals
) -> None:
    at, data = made
    edit(at, "launch.nnodes=2", f"launch.rdzv_endpoint=127.0.0.1:{free_port()}")
    trust.allow_launch(at)
    waiting = HERE.start(*MVC, "train", data, cwd=at.root, MVC_NODE_RANK="1")
    here = psutil.Process(waiting.pid)
    while not here.children():
        assert waiting.poll() is None, waiting.communicate()[0]
        time.sleep(0.1)
    time.sleep(5)  # it asks for the first machine, inside torch
    torchrun = here.children()
    assert torchrun
    waiting.send_signal(number)
    assert waiting.wait(SOON_S) == (130 if number == signal.SIGTERM else -number)
    _, alive = psutil.wait_procs(torchrun, timeout=SOON_S)
    assert not alive


def test_a_launcher_s_rank_0_that_cannot_begin_tells_the_others(
    made: tuple[Layout, Path], tmp_path: Path
) -> None:
    (tmp_path / "nowhere").mkdir()
    running = srun(tmp_path / "nowhere", [made[1]], tmp_path / "elsewhere")
    (owner, first), (other, second) = map(ended, running)
    assert (owner, other) == (1, 1)
    assert "nowhere is not inside a model repo" in first, first
    assert "process 0: " in second and "nowhere is not inside a model repo" in second, second


@pytest.mark.parametrize("alone", [0, 1])
def test_a_launcher_s_rank_waits_a_while_for_one_that_does_not_come(
    made: tuple[Layout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: int
) -> None:
    monkeypatch.setenv("MVC_JOIN_S", "8")
    running = srun(made[0].root, [made[1]], tmp_path / "elsewhere")
    running[1 - alone].kill()
    running[1 - alone].wait()
    code, said = ended(running[alone])
    assert code == 1 and "cannot be reached" in said, said
