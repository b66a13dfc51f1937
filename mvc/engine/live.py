"""The state as values in memory, between the last step of a batch and its files.

Owns taking it off a Trainer, cloning it for a writer that works while the next batch trains, and
writing it: the same values give the same bytes, whether they were cloned or not.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from mvc.engine import fsdp, state
from mvc.errors import TrainingFailed
from mvc.types import FileDigest

if TYPE_CHECKING:
    import torch

    from mvc.engine.trainer import BatchTrainer

Carried = tuple[tuple[str, bytes], ...]
"""Files that training does not change (the tokenizer's), by name."""


class LiveState(msgspec.Struct, frozen=True):
    """All of a state but the random states of the ranks and the batch's own log.

    `adapter` holds the tensors by PEFT's names, `adapter_config` the bytes of its file,
    `optimizer` and `scheduler` their `state_dict()`s, `parameters` what `optimizer`'s positions
    mean.
    """

    adapter: dict[str, torch.Tensor]
    adapter_config: bytes
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    parameters: dict[str, Any]
    carried: Carried

    def check_finite(self, name: str) -> None:
        """Refuse weights or moments that are not numbers: the last step's loss came before it.

        Raises:
            TrainingFailed: one of batch `name` is infinite or no number.
        """
        import torch

        moments = [v for entry in self.optimizer["state"].values() for v in entry.values()]
        tensors = [*self.adapter.values(), *(v for v in moments if isinstance(v, torch.Tensor))]
        # One pass and no copy, unlike isfinite().all(); a NaN is both lowest and highest.
        edges = (edge for each in tensors if each.numel() for edge in torch.aminmax(each))
        if not all(math.isfinite(edge) for edge in edges):
            raise TrainingFailed(
                f"the weights of {name} became infinite or no number",
                "nothing was recorded; lower train.learning_rate in mvc.toml",
            )

    def write(self, folder: Path) -> list[FileDigest]:
        """Write the files into `folder`, hashed and fsynced.

        Both large ones at once: md5 alone takes 2.1 s of 972 MB, on one core.
        """
        with ThreadPoolExecutor(1, "mvc-optimizer") as pool:
            optimizer = pool.submit(state.write_torch, folder, state.OPTIMIZER, self.optimizer)
            adapter = state.write_tensors(folder, self.adapter)
        return [
            adapter,
            state.write_bytes(folder, state.ADAPTER_CONFIG, self.adapter_config),
            optimizer.result(),
            state.write_torch(folder, state.SCHEDULER, self.scheduler),
            state.write_json(folder, state.PARAMETERS, self.parameters),
            *(state.write_bytes(folder, name, data) for name, data in self.carried),
        ]


class Clone:
    """A state's values in memory of their own, on the CPU, copied by a thread meanwhile.

    What is copied may be read before `join` returns, and not written: the next batch is built and
    makes its first gradients, and joins before its first optimizer step. `state_dict()` aliases
    what the optimizer steps on, and `.cpu()` on a CPU copies nothing: without a clone three of
    four background commits were corrupt (DESIGN.md).

    Args:
        taken: the state.
        spare: a copy that nobody reads any more, whose memory is used again. New memory costs a
            page fault for every 4 kB: 969 MB took 0.8 to 2.5 s, and 0.3 into memory in use.
    """

    def __init__(self, taken: LiveState, spare: LiveState | None = None) -> None:
        self._done: Future[LiveState] = Future()
        # The thread lets go of its arguments: who joins it later does not keep the copy.
        thread = threading.Thread(
            target=self._copy, args=(taken, spare, _aside()), name="mvc-clone"
        )
        self.join: Callable[[], None] = thread.join
        thread.start()

    def _copy(
        self, taken: LiveState, spare: LiveState | None, aside: AbstractContextManager[Any]
    ) -> None:
        try:
            with aside:
                adapter = copied(taken.adapter, spare and spare.adapter)
                optimizer = copied(taken.optimizer, spare and spare.optimizer)
            self._done.set_result(replace(taken, adapter=adapter, optimizer=optimizer))
        except BaseException as error:  # the writer meets it
            self._done.set_exception(error)

    def result(self) -> LiveState:
        """The copy, once it is whole."""
        return self._done.result()


def take(trainer: BatchTrainer) -> LiveState:
    """The state of a Trainer as it stands; its tensors are the Trainer's own.

    Under FSDP they are gathered whole, by all ranks together.
    """
    base_ref = trainer.batch.job.settings.base.model
    return LiveState(
        adapter=_adapter(trainer),
        adapter_config=state.adapter_config(trainer.model, base_ref),
        optimizer=fsdp.whole(trainer.optimizer.state_dict()),
        scheduler=trainer.lr_scheduler.state_dict(),
        parameters=trainer.parameters,
        carried=trainer.batch.carried(),
    )


def _adapter(trainer: BatchTrainer) -> dict[str, torch.Tensor]:
    if trainer.adapter is None:
        return fsdp.whole(state.adapter_tensors(trainer.model))  # type: ignore[no-any-return]
    return {name: each.detach() for name, each in trainer.adapter.items()}


def carried(source: Path) -> Carried:
    """What the next state takes over from the folder `source` unchanged."""
    ours = {state.ADAPTER, state.ADAPTER_CONFIG, state.OPTIMIZER, state.SCHEDULER}
    ours |= {state.TRAINER_STATE, state.PARAMETERS, "manifest.json"}
    return tuple(
        (path.name, path.read_bytes())
        for path in sorted(source.iterdir())
        if path.is_file() and path.name not in ours and not path.name.startswith("rng_state")
    )


def _aside() -> AbstractContextManager[Any]:
    """Where copies disturb no training: on a GPU a stream of their own, after what runs now."""
    import torch

    if not torch.cuda.is_available():
        return nullcontext()
    torch.cuda.current_stream().synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    found: AbstractContextManager[Any] = torch.cuda.stream(stream)
    return found


def copied(value: Any, spare: Any = None) -> Any:
    """`value` with every tensor in it copied to memory of its own, on the CPU.

    Args:
        value: tensors, in dictionaries and sequences.
        spare: an earlier copy of the like, whose tensors are overwritten where they fit.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if isinstance(spare, torch.Tensor) and _fits(spare, value):
            return spare.copy_(value.detach())
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        old = spare if isinstance(spare, dict) else {}
        return {key: copied(item, old.get(key)) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return type(value)(copied(item) for item in value)  # type: ignore[call-arg]
    return value


def _fits(spare: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether a file of `spare` with the values of `value` has the same bytes."""
    return (spare.dtype, spare.shape, spare.stride()) == (value.dtype, value.shape, value.stride())
