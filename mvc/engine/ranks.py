"""The processes that train one batch together, each with its number, its rank.

Owns who this process is, joining the others, and the few moments when all must agree. With one
process everything here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

from mvc.errors import EngineError

T = TypeVar("T")

_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def launched() -> tuple[int, int] | None:
    """(rank, number of processes) where a launcher started this process as one of several.

    torchrun, Ray Train and the like set RANK, WORLD_SIZE and MASTER_ADDR; Slurm's srun has names
    of its own for the first two, taken where MASTER_ADDR shows that they are meant.
    """
    found = os.environ
    if "MASTER_ADDR" in found and "RANK" not in found and "SLURM_PROCID" in found:
        found |= {name: found[theirs] for name, theirs in _SLURM.items() if theirs in found}
        found.setdefault("MASTER_PORT", "29500")
    if not {"MASTER_ADDR", "RANK", "WORLD_SIZE"} <= found.keys() or found["WORLD_SIZE"] == "1":
        return None
    return int(found["RANK"]), int(found["WORLD_SIZE"])


def join() -> None:
    """Meet the other processes of the launch, unless the launcher has done so (Ray Train).

    Raises:
        EngineError: they cannot be reached.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"the other processes of this training cannot be reached: {error}",
            "look at MASTER_ADDR and MASTER_PORT, or at launch.rdzv_endpoint in mvc.toml",
        ) from error


def world_size() -> int:
    """Number of processes that have joined; 1 before `join`."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 owns the repo and writes the state."""
    import torch.distributed as dist

    return dist.get_rank() if world_size() > 1 else 0


def even(order: Sequence[int], micro_batch_size: int, num_ranks: int) -> list[int]:
    """The row order, completed from its start to whole micro-batches on every rank.

    accelerate completes an uneven end in the same way (`BatchSamplerShard`, `even_batches`), but
    from the rows it was given, and those are fewer after a checkpoint: then the bits would differ.
    """
    if num_ranks == 1:
        return list(order)
    chunk = micro_batch_size * num_ranks
    return [*order, *islice(cycle(order), -len(order) % chunk)]


def barrier() -> None:
    """Wait until every rank is here."""
    agree(False)


def agree(wish: bool) -> bool:
    """Whether any rank wishes it; all ranks get the same answer."""
    if world_size() == 1:
        return wish
    import torch
    import torch.distributed as dist

    device = "cpu" if "gloo" in dist.get_backend_config() else "cuda"
    flag = torch.tensor([int(wish)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def gather(value: T) -> list[T]:
    """The values of all ranks, in rank order."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def check_same(what: Mapping[str, object]) -> None:
    """Refuse to go on where a rank differs from rank 0 in anything of `what`.

    Raises:
        EngineError: on every rank; it names the first that differs, and how.
    """
    first, *others = gather(dict(what))
    for number, other in enumerate(others, 1):
        for name, value in first.items():
            if other.get(name) != value:
                raise EngineError(
                    f"process {number} has another {name} than process 0: "
                    f"{other.get(name)}, not {value}",
                    "install the same versions on every machine, and give each the same base",
                )
