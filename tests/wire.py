"""The wire between a client and a real server: its moments, its bytes, and its breaking.

`marked` makes every send and receive of a function a moment to be killed at (`killing`). A `Relay`
stands before a server: it counts what passes, and is cut as a network is.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.killing import STEP

_BLOCK = 1 << 16
_CALLS = ("send", "sendmsg", "recv", "recv_into")


def marked(function: Callable[[], object]) -> Callable[[], object]:
    """`function`, in whose process every send and receive on TCP is a moment from then on."""

    def act() -> object:
        for name in _CALLS:
            setattr(socket.socket, name, _marking(name, getattr(socket.socket, name)))
        return function()

    return act


def _marking(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def marking(self: socket.socket, *args: Any) -> Any:
        if self.family == socket.AF_INET:
            sys.audit(STEP, name)
        return call(self, *args)

    return marking


class Relay:
    """Passes TCP on from a port of its own to a server's."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.num_bytes = 0  # that passed, both ways
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._acting = threading.Lock()
        self._at: int | None = None
        self._act: Callable[[], object] = self.cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    @contextmanager
    def cut_after(self, num_bytes: int, act: Callable[[], object]) -> Iterator[None]:
        """Call `act` inside once that many bytes have passed; outside, and later, nothing."""
        with self._acting:
            self._act, self._at = act, self.num_bytes + num_bytes
        try:
            yield
        finally:
            with self._acting:
                self._at = None

    def close(self) -> None:
        """Take no more connections, and break those that are."""
        # A thread that still waits on the closed number would serve the next relay's clients.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                with self._lock:
                    self.num_bytes += len(block)
                with self._acting:
                    if self._at is not None and self.num_bytes >= self._at:
                        self._at = None
                        self._act()
                sink.sendall(block)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
