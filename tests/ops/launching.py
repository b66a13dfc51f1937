"""Commands in processes of their own: under a launcher, on another machine, and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mvc.ops import init, trust
from mvc.store import history
from mvc.store.layout import Layout
from tests.ops.conftest import SETS, edit, git, sound, state_bytes, write_batch

MINUTE_S = 60
MVC = [sys.executable, "-m", "mvc"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@dataclass
class Machine:
    """Where a command runs: where others find it, and what stands before the command."""

    address: str = "127.0.0.1"
    prefix: list[str] = field(default_factory=list)

    def start(self, *command: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """Start a command here; stderr comes with stdout."""
        return subprocess.Popen(
            [*self.prefix, *map(str, command)],
            cwd=cwd,
            env={**os.environ, **env},
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


def owned(model: Path, folder: Path) -> Layout:
    """A copy of `model`, in a folder of its own that can be hidden from the other machine."""
    (folder / "owner").mkdir()
    subprocess.run(["cp", "-a", model, folder / "owner" / "model"], check=True)
    return Layout(folder / "owner" / "model")


def assert_trained_once(at: Layout, undisturbed: Layout, num_batches: int = 1) -> None:
    """The line has each batch once, and ends in the bits of the `undisturbed` one."""
    assert state_bytes(at) == state_bytes(undisturbed)
    assert len(history.log(at.root, "HEAD")) == 1 + num_batches
    assert sound(at)


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def two_machines(hidden: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two network namespaces joined by a cable, the second without the folder `hidden`.

    To itself each one's name is an address of the loopback, as in Debian's /etc/hosts. Where this
    machine gives no namespaces (no root), two plain places on the loopback.
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
        with tempfile.TemporaryDirectory() as folder:
            one, two = (_machine(n, number, Path(folder)) for number, n in enumerate(names, 1))
            two.prefix += ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
            yield one, two
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=True)


def _machine(namespace: str, number: int, folder: Path) -> Machine:
    # The gloo process with the higher address calls the other: below 127 it would be the one that
    # has wrongly taken its loopback, and the test would pass.
    address, other = (f"198.51.100.{each}" for each in (number, 3 - number))
    for what in (
        ["addr", "add", f"{address}/24", "dev", "eth1"],
        ["link", "set", "eth1", "up"],
        ["link", "set", "lo", "up"],
    ):
        subprocess.run(["ip", "-n", namespace, *what], check=True)
    hosts = folder / f"hosts{number}"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 mvc{number}\n{other} mvc{3 - number}\n")
    known = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    prefix = ["ip", "netns", "exec", namespace, "unshare", "--mount", *known]
    return Machine(address, prefix)


def make_model(folder: Path, tiny_base: Path) -> tuple[Layout, Path]:
    """An untrained model in `folder`, and a batch of 20 steps of two processes, each with a
    recovery point."""
    sets = [*SETS, "train.micro_batch_size=1", "train.checkpoint_steps=1"]
    init.init(folder / "model", str(tiny_base), sets=sets)
    return Layout(folder / "model"), write_batch(folder / "day.jsonl", 0, 40)


def step(machines: Sequence[Machine]) -> list[dict[str, str]]:
    """What srun tells each of two tasks, with no word of where they meet."""
    apart = machines[0] is not HERE
    nodes = "mvc[1-2]" if apart else "localhost"
    common = {
        "SLURM_JOB_ID": str(free_port()),  # a number of this step's own, which chooses its port
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NTASKS": "2",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_TASKS": "2",
    }
    return [
        common | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(0 if apart else task)}
        for task in range(2)
    ]


def srun(
    root: Path, files: Sequence[Path], elsewhere: Path, machines: Sequence[Machine] = (HERE, HERE)
) -> list[subprocess.Popen[str]]:
    """Two processes as Slurm starts them, the second in a folder that is no repo."""
    elsewhere.mkdir(exist_ok=True)
    return [
        machine.start(*MVC, "train", *files, cwd=cwd, **told)
        for machine, cwd, told in zip(machines, (root, elsewhere), step(machines), strict=True)
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
