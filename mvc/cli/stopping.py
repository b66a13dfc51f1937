"""Signals while training.

Of Ctrl-C and SIGTERM the first asks for a stop, the second ends at once; SIGHUP wakes a daemon.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from mvc.types import ShouldStop

_ASKED = b"\nStopping after this step; once more to stop at once.\n"


@contextlib.contextmanager
def graceful() -> Iterator[ShouldStop]:
    """Within this block the first signal makes the yielded function true; the second raises
    KeyboardInterrupt. Outside the main thread, where Python has no signals, nothing changes."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not through a stream: the signal may have come in the middle of writing to it.
        with contextlib.suppress(OSError):
            os.write(2, _ASKED)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def woken() -> Iterator[threading.Event]:
    """Within this block SIGHUP sets the yielded event; the main thread alone may enter it."""
    wake = threading.Event()

    def set_it(number: int, frame: FrameType | None) -> None:
        # In a thread of its own: the main thread may be inside the event's lock just now.
        threading.Thread(target=wake.set).start()

    before = signal.signal(signal.SIGHUP, set_it)
    try:
        yield wake
    finally:
        signal.signal(signal.SIGHUP, before)
