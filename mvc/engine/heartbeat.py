"""Whether the other ranks still live: each tells it through the store, every few seconds.

A machine that loses its network closes no connection. The others would wait for it in a collective
for half an hour, and a store on a machine that is gone never answers. Owns noticing that, and
ending this process: its main thread is inside torch, where no exception reaches it. Ranks that
beat may keep the others waiting as long as they like.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from mvc.engine import ranks, train
from mvc.errors import EngineError, MvcError

BEAT_S = float(os.environ.get("MVC_BEAT_S", 5))
LOST_S = float(os.environ.get("MVC_LOST_S", 60))
"""How often a rank tells that it lives, and how long the others wait to hear it."""

Lost = Callable[[MvcError], None]
"""Tells whoever looks at this process why it ends, at once."""


def say(error: MvcError) -> None:
    """Write an error to stderr, past every buffer."""
    os.write(2, f"Error: {error.message}\nHint: {error.hint}\n".encode())


class Heartbeat:
    """This rank's beat, and its ear for the others', from now until `stop`.

    Args:
        store: where the ranks met; a connection of its own is made, because a call on the main
            thread's may wait.
        lost: hears of the end.
    """

    def __init__(self, store: Any, lost: Lost) -> None:
        self._store, self._lost, self._over = store.clone(), lost, threading.Event()
        self._mine = ranks.rank()
        # In seconds that this process has lived through, not by the clock: one that was stopped,
        # or whose threads had to wait, has not listened meanwhile.
        self._silent_s = [0.0] * ranks.world_size()
        for work in (self._beat, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """The others may end now, one after the other."""
        self._over.set()

    def _beat(self) -> None:
        counts = [0] * len(self._silent_s)
        try:
            while not self._over.wait(BEAT_S):
                self._store.add(f"beat/{self._mine}", 1)
                for rank, before in enumerate(counts):
                    counts[rank] = self._store.add(f"beat/{rank}", 0)
                    if counts[rank] != before:
                        self._silent_s[rank] = 0.0
        except RuntimeError:
            return  # the store is gone; what the main thread does not notice, `_listen` will

    def _listen(self) -> None:
        tick_s = BEAT_S / 2
        while not self._over.wait(tick_s):
            self._silent_s = [each + tick_s for each in self._silent_s]
            late = [rank for rank, each in enumerate(self._silent_s) if each > LOST_S]
            if late:
                # One that does not even hear itself is cut off from the store, which is rank 0's.
                alone = self._silent_s[self._mine] > LOST_S / 2
                self._end(0 if alone else late[0])

    def _end(self, rank: int) -> None:
        self._lost(
            EngineError(
                f"process {rank} was not heard of for {LOST_S:.0f} seconds; its machine is gone, "
                "or the network",
                train.GO_ON,
            )
        )
        os._exit(1)
