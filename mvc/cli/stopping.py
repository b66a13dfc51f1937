"""Signals while training.

Of Ctrl-C and SIGTERM the first asks for a stop, the second ends at once; SIGHUP wakes a daemon.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from mvc import stopping
from mvc.types import ShouldStop

_ASKED = b"\nStopping after this step; once more to stop at once.\n"


@contextlib.contextmanager
def graceful() -> Iterator[ShouldStop]:
    """Within this block the first signal makes the yielded function true; the second raises
    KeyboardInterrupt, and so does the first in what may end at once (`stopping.at_once`). Outside
    the main thread, where Python has no signals, nothing changes."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping.asked():
            raise KeyboardInterrupt
        # Not through a stream: the signal may have come in the middle of writing to it.
        with contextlib.suppress(OSError):
            os.write(2, _ASKED)
        stopping.ask()

    if threading.current_thread() is not threading.main_thread():
        yield stopping.asked
        return
    stopping.forget()
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping.forget()


def leave(status: int) -> NoReturn:
    """End the process with an exit code.

    A thread of ours that still reads a file is left behind: Python's own end would tear it out of
    foreign code, and that aborts the process.
    """
    if any(each.daemon and each.name.startswith("mvc-") for each in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


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
