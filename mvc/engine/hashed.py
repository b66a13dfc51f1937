"""A file that is hashed while it is written, and durable when it is closed.

Owns nothing but that: what the bytes mean is `state`'s.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from mvc.hashing import Hashes
from mvc.types import FileDigest

_PIECE = 1 << 20
"""Bytes of one write: for a larger one Linux takes whole huge pages, which it must first find."""


class HashedFile(io.BufferedIOBase):
    """A writable file that hashes what goes through it: no file is read again for its hash."""

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        self._hashes, self._name = Hashes(), path.name
        self._file = path.open("wb")

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
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        super().close()
