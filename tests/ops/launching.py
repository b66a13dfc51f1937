"""Commands in processes of their own: under a launcher, on another machine, and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mvc.ops import init, trust
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, edit, git, write_batch

MINUTE_S = 60
MVC = [sys.executable, "-m", "mvc"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@dataclass
class Machine:
    """Where a command runs: what stands before it, and its environment."""

    address: str = "127.0.0.1"
    prefix: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *command: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """Start a command here; stderr comes with stdout."""
        return subprocess.Popen(
            [*self.prefix, *map(str, command)],
            cwd=cwd,
            env={**os.environ, **self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


HERE = Machine()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output of a process that ends within a minute; one that does not fails."""
    try:
        said, _ = process.communicate(timeout=MINUTE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, said


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def two_machines(hidden: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two network namespaces joined by a cable, the second without the folder `hidden`.

    Where this machine gives none (no root), two plain places on the loopback.
    """
    names = [f"mvc{os.getpid()}{letter}" for letter in "ab"]
    made = [subprocess.run(["ip", "netns", "add", n], capture_output=True) for n in names]
    if any(each.returncode for each in made):
        yield HERE, Machine()
        return
    try:
        a, b = names
        cable = ["link", "add", "eth1", "netns", a, "type", "veth", "peer", "eth1", "netns", b]
        subprocess.run(["ip", *cable], check=True)
        machines = []
        for number, name in enumerate(names, 1):
            address = f"10.77.0.{number}"
            for what in (
                ["addr", "add", f"{address}/24", "dev", "eth1"],
                ["link", "set", "eth1", "up"],
                ["link", "set", "lo", "up"],
            ):
                subprocess.run(["ip", "-n", name, *what], check=True)
            prefix = ["ip", "netns", "exec", name]
            if number == 2:
                hide = 'mount -t tmpfs none "$0" && exec "$@"'
                prefix += ["unshare", "--mount", "sh", "-c", hide, str(hidden)]
            machines.append(Machine(address, prefix, {"GLOO_SOCKET_IFNAME": "eth1"}))
        yield machines[0], machines[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=True)


def make_model(folder: Path, tiny_base: Path) -> tuple[Layout, Path]:
    """An untrained model in `folder`, and a batch of 20 steps of two processes, each with a
    recovery point."""
    sets = [*SETS, "train.micro_batch_size=1", "train.checkpoint_steps=1"]
    init.init(folder / "model", str(tiny_base), sets=sets)
    return Layout(folder / "model"), write_batch(folder / "day.jsonl", 0, 40)


def srun(root: Path, data: Path, elsewhere: Path) -> list[subprocess.Popen[str]]:
    """Two processes as Slurm starts them, the second in a folder that is no repo."""
    elsewhere.mkdir(exist_ok=True)
    port = str(free_port())
    return [
        HERE.start(
            *MVC,
            "train",
            data,
            cwd=[root, elsewhere][rank],
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            SLURM_STEP_ID="0",
            SLURM_PROCID=str(rank),
            SLURM_NTASKS="2",
            SLURM_LOCALID=str(rank),
        )
        for rank in range(2)
    ]


def train_on(
    machines: tuple[Machine, Machine], at: Layout, data: Path, folder: Path, **env: str
) -> tuple[Layout, list[subprocess.Popen[str]]]:
    """Begin a batch of two machines, the second with a clone in `folder`, which is returned."""
    clone = Layout(folder / "clone")
    git(at, "clone", "-q", str(at.root), str(clone.root))
    edit(at, "launch.nnodes=2", f"launch.rdzv_endpoint={machines[0].address}:{free_port()}")
    shutil.copyfile(at.config, clone.config)
    for each in (at, clone):
        trust.allow_launch(each)
    return clone, [
        machine.start(*MVC, "train", data, cwd=repo.root, MVC_NODE_RANK=str(number), **env)
        for number, (machine, repo) in enumerate(zip(machines, (at, clone), strict=True))
    ]


def rank_of(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The training process with this rank below `process`, or that process itself."""
    here = psutil.Process(process.pid)
    for each in (*here.children(recursive=True), here):
        with contextlib.suppress(psutil.Error):
            if each.environ().get("RANK") == str(rank):
                return each
    raise AssertionError(f"no process of rank {rank}")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until `process` has made `path`."""
    until = time.monotonic() + MINUTE_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.005)
