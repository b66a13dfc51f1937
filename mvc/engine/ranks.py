"""The processes that train one batch together (torchrun's ranks).

Owns who this process is and the few moments when all must agree. With one process everything
here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TypeVar

T = TypeVar("T")


def world_size() -> int:
    """Number of processes, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number; 0 writes the state."""
    return int(os.environ.get("RANK", "0"))


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
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def agree(wish: bool) -> bool:
    """Whether any rank wishes it; all ranks get the same answer."""
    if world_size() == 1:
        return wish
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor([int(wish)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def gather(value: T) -> list[T]:
    """The values of all ranks, in rank order."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return [v for v in found if v is not None]
