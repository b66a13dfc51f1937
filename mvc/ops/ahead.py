"""Reading the next file while another one trains.

Owns the thread that does it, which nobody waits for who stops: a large file takes minutes. What
reading means, and where the rows stay, is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path

from mvc.errors import Interrupted
from mvc.types import ShouldStop

_LOOK_S = 0.2


class Ahead:
    """At most one file is read ahead.

    Args:
        read: reads a file and keeps its rows under the hash that it returns; in another thread,
            one file at a time.
        forget: lets go of the rows under a hash.
    """

    def __init__(self, read: Callable[[Path], str], forget: Callable[[str], None]) -> None:
        self._read, self._forget = read, forget
        self._one_at_a_time = threading.Lock()
        self._begun: tuple[Path, Future[str]] | None = None

    def begin(self, path: Path) -> None:
        """Read a file in the background, unless one is read already."""
        if self._begun is None:
            self._begun = (path, Future())
            # Not a pool's: Python waits for those in the end.
            threading.Thread(
                target=self._run, args=self._begun, name="mvc-reader", daemon=True
            ).start()

    def _run(self, path: Path, read: Future[str]) -> None:
        try:
            with self._one_at_a_time:
                md5 = self._read(path)
        except BaseException as error:
            read.set_exception(error)
        else:
            read.set_result(md5)

    def take(self, path: Path, should_stop: ShouldStop) -> None:
        """Wait for what is read, one file at a time; of another than `path` it is let go.

        What went wrong is not told: who trains the file meets it again, in its place.

        Raises:
            Interrupted: `should_stop` answered yes meanwhile.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return
        while not wait([begun[1]], _LOOK_S).done:
            if should_stop():
                raise Interrupted(f"stopped while {path.name} was read", "start it again")
        with suppress(Exception):
            md5 = begun[1].result()
            if begun[0] != path:
                self._forget(md5)
