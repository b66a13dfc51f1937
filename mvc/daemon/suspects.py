"""Files whose training broke off for a reason that blames no data.

Owns `.mvc/watch/suspects.json`, how often each failed so. A broken device fails every file alike,
and a process whose device has failed once fails all that come after: so what failed is tried again
by a fresh process, and is to blame only where it fails after another file was trained by that one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from mvc.errors import MvcError
from mvc.store.files import atomic_write
from mvc.store.layout import Layout
from mvc.types import DataFile


class _Suspect(msgspec.Struct, frozen=True):
    path: str
    failures: int


class Suspects:
    """The files under suspicion, by their content; what is gone is forgotten.

    Args:
        at: the model repo.
    """

    def __init__(self, at: Layout) -> None:
        self._file = at.watch / "suspects.json"
        self._found: dict[str, _Suspect] = {}
        self._trained = False
        with suppress(OSError, msgspec.DecodeError):
            told = msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Suspect])
            self._found = {md5: each for md5, each in told.items() if Path(each.path).exists()}

    def failed(self, data: DataFile) -> bool:
        """A file's training broke off, and this process shall end; whether the file is to blame."""
        before = self._found.get(data.md5)
        if before is not None and self._trained:
            self._forget(data.md5)
            return True
        failures = 1 + (before.failures if before else 0)
        self._found[data.md5] = _Suspect(str(data.path), failures)
        self._write()
        return False

    def trained(self, md5: str) -> None:
        """A batch of that content is committed: it is clear of suspicion, and so is the device."""
        self._trained = True
        self._forget(md5)

    def failures(self, path: Path) -> int:
        """How often what lies at `path` failed, in a process each."""
        return max((s.failures for s in self._found.values() if s.path == str(path)), default=0)

    def place(self, path: Path) -> int:
        """Where it stands in the queue: once more in its turn, then behind those that failed less.

        Else nothing would ever be trained before it, which alone could tell whose fault it is.
        """
        return max(self.failures(path) - 1, 0)

    def alone(self, path: Path) -> bool:
        """Whether `path` failed in two processes, and this one has trained nothing yet."""
        return self.place(path) > 0 and not self._trained

    def _forget(self, md5: str) -> None:
        if self._found.pop(md5, None) is not None:
            self._write()

    def _write(self) -> None:
        # On a full disk it is suspected once less.
        with suppress(OSError, MvcError):
            atomic_write(self._file, msgspec.json.encode(self._found))
