"""Batches that two workers of Ray Train train.

`python -m tests.ops.under_ray HOW LOOP MODEL FILE...`:

HOW is `ray`, which is not in the lock file (`pip install ray`: 260 MB), or `imitated`. That does to
its workers what Ray 2.60 does (ray/train/torch/config.py): torch's variables are set, the process
group is there already, with its store at MASTER_PORT, and the loop runs in a thread beside the main
one, in another folder. LOOP is one of `LOOPS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

Config = dict[str, Any]


def by_api(config: Config) -> None:
    """The loop of README.md, once for each file."""
    import mvc

    for file in config["files"]:
        for result in mvc.open(config["model"]).train([file]):
            print(result.commit.batch, result.commit.loss)


def by_command(config: Config) -> None:
    """The command in every worker, once for each file."""
    for file in config["files"]:
        command = [sys.executable, "-m", "mvc", "-C", config["model"], "train", file]
        subprocess.run(command, check=True)


LOOPS: dict[str, Callable[[Config], None]] = {"api": by_api, "command": by_command}


def by_ray(name: str, config: Config) -> None:
    """Two workers without a GPU, on this machine."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    with tempfile.TemporaryDirectory() as results:
        TorchTrainer(
            LOOPS[name],
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=results),
        ).fit()


def imitated(name: str, config: Config) -> None:
    """Two processes that are what Ray makes of its workers."""
    from tests.ops.launching import free_port

    command = [sys.executable, "-m", "tests.ops.under_ray", "worker", name, config["model"]]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            subprocess.Popen(
                [*command, *config["files"]],
                cwd=folder,
                env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        codes = [each.wait() for each in workers]
    if any(codes):
        raise SystemExit(f"the workers ended with {codes}")


def worker(name: str, config: Config) -> None:
    """One of `imitated`'s processes."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method="env://")
    if name == "api":
        del os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]  # so init_method="tcp" leaves it
    failures: list[BaseException] = []

    def run() -> None:
        try:
            LOOPS[name](config)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    dist.destroy_process_group()


if __name__ == "__main__":
    how, loop, model, *files = sys.argv[1:]
    ways = {"ray": by_ray, "imitated": imitated, "worker": worker}
    ways[how](loop, {"model": model, "files": files})
