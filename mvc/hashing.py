"""md5 and sha256 of a stream in one pass, beside whatever reads or writes it.

DVC names objects by md5, a commit vouches for sha256. hashlib lets go of Python's lock, so that
each hash has a core, and the disk need not wait for them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mvc.types import FileDigest

_LARGE = 1 << 20
"""Bytes from which on a thread costs less than it saves."""


class Hashes:
    """The hashes of all that was taken so far."""

    def __init__(self) -> None:
        self._all = (hashlib.md5(usedforsecurity=False), hashlib.sha256())
        self.size_bytes = 0

    @contextmanager
    def taking(self, data: bytes | memoryview) -> Iterator[None]:
        """Hash `data`, which must not change, while the block runs; done when the block is."""
        size = memoryview(data).nbytes
        self.size_bytes += size
        if size < _LARGE:
            for each in self._all:
                each.update(data)
            yield
            return
        threads = [threading.Thread(target=each.update, args=(data,)) for each in self._all]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()

    def digest(self, path: str) -> FileDigest:
        """What was taken, as the file `path`."""
        md5, sha256 = (each.hexdigest() for each in self._all)
        return FileDigest(path, self.size_bytes, md5, sha256)
