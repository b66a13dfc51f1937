"""Whether a stop was asked for, and what ends at once when it is.

Floor 0; the signals are `cli.stopping`'s. A step in progress is finished and kept. What comes
before the first one (reading, loading, measuring) may take minutes and keeps nothing: inside
`at_once` the signal's handler breaks into it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mvc.errors import Interrupted

_asked = False
_depth = 0


def ask() -> None:
    """A stop is asked for; called by a signal's handler, so in the main thread.

    Raises:
        KeyboardInterrupt: inside `at_once`: no `except Exception` of a library holds it up.
    """
    global _asked
    _asked = True
    if _depth:
        raise KeyboardInterrupt


def asked() -> bool:
    """Whether a stop was asked for: a ShouldStop."""
    return _asked


def forget() -> None:
    """Nobody has asked; called when signals begin or cease to mean a stop."""
    global _asked
    _asked = False


@contextmanager
def at_once() -> Iterator[None]:
    """What is done inside may end anywhere; in other threads than the main one nothing changes.

    Raises:
        Interrupted: a stop is asked for, or was before.
    """
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        if _asked:
            raise KeyboardInterrupt
        yield
    except KeyboardInterrupt:
        if not _asked:
            raise
        raise Interrupted("stopped before the first step", "run the same command again") from None
    finally:
        _depth -= 1
