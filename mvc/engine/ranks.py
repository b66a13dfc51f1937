"""The processes that train one batch together, each with its number, its rank.

Owns who this process is, joining the others, and the few moments when all must agree. With one
process everything here is the identity.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from functools import partial
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mvc.engine import meeting, slurm
from mvc.errors import EngineError, Interrupted
from mvc.types import ShouldStop, never_stop

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MEETING = "MVC_MEETING"
"""A file that only this user may open, where the processes of one machine meet."""

JOIN_S = float(os.environ.get("MVC_JOIN_S", 300))
"""How long the processes of a launch wait for each other at its beginning."""

_INTERFACE = "GLOO_SOCKET_IFNAME"
_POLL_S = 0.05


def launched() -> tuple[int, int] | None:
    """(rank, number of processes) where a launcher started this process as one of several.

    torchrun and the like set RANK, WORLD_SIZE and MASTER_ADDR; srun has names of its own
    (`slurm`); Ray Train has joined the processes already.

    Raises:
        ConfigError: Slurm started it, and it cannot be told where the processes meet.
    """
    if "torch.distributed" in sys.modules and world_size() > 1:
        return rank(), world_size()
    found = os.environ | slurm.launched(os.environ)
    if not {"MASTER_ADDR", "RANK", "WORLD_SIZE"} <= found.keys() or found["WORLD_SIZE"] == "1":
        return None
    return int(found["RANK"]), int(found["WORLD_SIZE"])


def join(should_stop: ShouldStop = never_stop) -> None:
    """Meet the other processes of the launch, unless the launcher has done so (Ray Train).

    Raises:
        EngineError: they cannot be reached, or not all of them came.
        Interrupted: `should_stop` answered yes while they were waited for.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        _choose_interface([os.environ.get("MASTER_ADDR", "")])  # for groups that `team` adds
        return
    os.environ |= slurm.launched(os.environ)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        _meet("cpu:gloo,cuda:nccl" if cuda else "gloo", should_stop)
    except (RuntimeError, ValueError) as error:
        raise _unreached(error) from error


def _meet(backend: str, should_stop: ShouldStop) -> None:
    import torch.distributed as dist

    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = fresh(_interruptible(partial(_store, rank, num_ranks), should_stop), rank)
    # On one machine nothing of the ranks is to be on the network.
    host = "127.0.0.1" if MEETING in os.environ else os.environ["MASTER_ADDR"]
    store.set(f"address/{rank}", meeting.address(host) or "")
    gathered(store, num_ranks, should_stop)
    others = (store.get(f"address/{other}").decode() for other in range(num_ranks))
    _choose_interface(chain([host], others))
    begin = partial(dist.init_process_group, backend, store=store, rank=rank, world_size=num_ranks)
    _interruptible(begin, should_stop)


def gathered(store: Any, num_ranks: int, should_stop: ShouldStop) -> None:
    """Wait until every rank is at `store`, a `fresh` one.

    By ourselves, because torch waits for a rank that never comes as long as in a collective.

    Raises:
        EngineError: not all of them came.
        Interrupted: `should_stop` answered yes.
    """
    store.add("here", 1)
    until = time.monotonic() + JOIN_S
    while (here := store.add("here", 0)) < num_ranks:
        if should_stop():
            raise _stopped()
        if time.monotonic() > until:
            raise _unreached(f"{here} of {num_ranks} came within {JOIN_S:.0f} seconds")
        time.sleep(_POLL_S)


def _unreached(why: object) -> EngineError:
    return EngineError(
        f"the other processes of this training cannot be reached: {why}",
        "look at MASTER_ADDR and MASTER_PORT, or at launch.rdzv_endpoint in mvc.toml; "
        "`mvc train --node-rank 0` leaves the other tasks of an srun alone",
    )


def fresh(store: Any, rank: int) -> Any:
    """A part of `store` that was never used: each rank counts what it has begun there.

    A script may train again and again, and a launcher's store is there before us and after us.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    return PrefixStore(f"mvc/{store.add(f'mvc/{rank}', 1)}", store)


def _choose_interface(hosts: Iterable[str]) -> None:
    """Have gloo take the network that leads to the first of `hosts` to which one is known.

    To the machine where all meet; on that machine itself, whose name may resolve to its loopback,
    to one of the others.
    """
    if _INTERFACE not in os.environ:
        for found in filter(None, map(meeting.interface, hosts)):
            os.environ[_INTERFACE] = found
            return


def _store(rank: int, num_ranks: int) -> Any:
    """What the ranks meet at: a file, or torch's store at MASTER_ADDR. That listens on every
    interface, and whoever reaches it could give the ranks a batch of his own."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if MEETING in os.environ:
        return dist.FileStore(os.environ[MEETING], num_ranks)  # type: ignore[attr-defined]
    wait, port = timedelta(seconds=JOIN_S), os.environ.get("MASTER_PORT", "")
    if rank == 0 and meeting.is_held_above(port):
        # A command in a worker of Ray Train, which keeps a store there: the others come to it.
        host = os.environ["MASTER_ADDR"]
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            host, int(port), num_ranks, is_master=False, timeout=wait
        )
    else:
        store, _, _ = next(iter(rendezvous("env://", rank, num_ranks, timeout=wait)))
    store.set_timeout(dist.default_pg_timeout)
    return store


def _interruptible(call: Callable[[], T], should_stop: ShouldStop) -> T:
    """What `call` returns, from another thread: Python hears of no signal while its main thread
    waits inside torch."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not wait([done], _POLL_S).done:
        if should_stop():
            raise _stopped()
    return done.result()


def _stopped() -> Interrupted:
    return Interrupted("stopped before all processes were there", "run the same `mvc train` again")


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

    flag = torch.tensor([int(wish)], device=_device())
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def gather(value: T) -> list[T]:
    """The values of all ranks, in rank order.

    They travel as MessagePack: torch's own `all_gather_object` unpickles what comes off the
    network, which runs whatever code it names.

    Args:
        value: what msgspec makes again from its type and bytes: numbers (infinite ones too),
            text, bytes, and what is built of them.
    """
    if world_size() == 1:
        return [value]
    import torch
    import torch.distributed as dist

    mine, device = _tensor(msgspec.msgpack.encode(value)), _device()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=device))
    lengths = [int(size.item()) for size in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded, device=device) for _ in lengths]
    dist.all_gather(parts, padded.to(device))
    return [
        msgspec.msgpack.decode(_bytes(part[:length]), type=type(value))
        for part, length in zip(parts, lengths, strict=True)
    ]


def send(value: object, group: Any) -> None:
    """Give a value, as in `gather`, to the other ranks of a gloo group, of which rank 0 is one."""
    import torch
    import torch.distributed as dist

    data = _tensor(msgspec.msgpack.encode(value))
    dist.broadcast(torch.tensor([len(data)]), src=0, group=group)
    dist.broadcast(data, src=0, group=group)


def receive(kind: type[T], group: Any) -> T:
    """The value of type `kind` that rank 0 gives to the group."""
    import torch
    import torch.distributed as dist

    size = torch.zeros(1, dtype=torch.int64)
    dist.broadcast(size, src=0, group=group)
    data = torch.empty(int(size.item()), dtype=torch.uint8)
    dist.broadcast(data, src=0, group=group)
    return msgspec.msgpack.decode(_bytes(data), type=kind)


def _device() -> str:
    """Where tensors lie that pass between the ranks; Ray Train may have joined them by NCCL."""
    import torch.distributed as dist

    return "cpu" if "gloo" in dist.get_backend_config() else "cuda"


def _tensor(data: bytes) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _bytes(tensor: torch.Tensor) -> bytes:
    found: bytes = tensor.cpu().numpy().tobytes()
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
