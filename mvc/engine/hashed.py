"""A file that is hashed while it is written, and durable when it is closed.

Owns nothing but that: what the bytes mean is `state`'s.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mvc.hashing import Hashes
from mvc.types import FileDigest

_PIECE = 1 << 20
"""Bytes of one write: for a larger one Linux takes whole huge pages, which it must first find."""
_AHEAD = 32 << 20
"""Bytes after which the disk begins, beside the hashes: 972 MB took 2.1 s instead of 2.5."""


class HashedFile(io.BufferedIOBase):
    """A writable file that hashes what goes through it: no file is read again for its hash."""

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        self._hashes, self._name = Hashes(), path.name
        self._file = path.open("wb")
        self._pool, self._waiting_bytes = ThreadPoolExecutor(1, "mvc-fsync"), 0
        self._syncing: Future[None] | None = None

    @property
    def digest(self) -> FileDigest:
        """What went through it."""
        return self._hashes.digest(self._name)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Write and hash all of `data`; what the disk refuses is in `error` too."""
        view = memoryview(data).cast("B")
        with self._hashes.taking(view):
            try:
                for at in range(0, len(view), _PIECE):
                    self._file.write(view[at : at + _PIECE])
                self._sync_ahead(len(view))
            except OSError as error:
                self.error = error
                raise
        return len(view)

    def flush(self) -> None:
        """Hand to the system what is buffered."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close it once it is on the disk."""
        try:
            if not self._file.closed:
                with self._file, self._pool:
                    self._file.flush()
                    self._synced()
                    os.fsync(self._file.fileno())
        finally:
            super().close()

    def _sync_ahead(self, num_bytes: int) -> None:
        self._waiting_bytes += num_bytes
        if self._waiting_bytes >= _AHEAD and (self._syncing is None or self._syncing.done()):
            self._synced()
            self._file.flush()
            self._syncing = self._pool.submit(os.fsync, self._file.fileno())
            self._waiting_bytes = 0

    def _synced(self) -> None:
        """Raise what the disk refused: Linux tells it once, and `fsync` would be content again."""
        if self._syncing is not None:
            self._syncing.result()
