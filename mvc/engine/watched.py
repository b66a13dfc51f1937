"""torchrun for as long as its starter lives: `python -m mvc.engine.watched ARGUMENTS`.

Owns ending a process with the one that started it. An orphan must not write into the run folder,
and one that waits for another machine would hold the port for minutes.
"""

from __future__ import annotations

import os
import threading
import time

PARENT = "MVC_PARENT"
"""The number of the process that started this one, and ends it with itself."""

_POLL_S = 0.1


def end_with_parent() -> None:
    """From now on end this process at once when its parent is gone, and so on down the children.

    Whose child one is tells the kernel: a number could be another process's by now, and the time
    at which it began moves when the clock is set.
    """
    parent = int(os.environ[PARENT])
    os.environ[PARENT] = str(os.getpid())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


def main() -> None:
    """Be torchrun, with this process's own arguments."""
    end_with_parent()
    from torch.distributed import run

    run.main()


if __name__ == "__main__":
    main()
