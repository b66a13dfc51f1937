"""A folder of this machine as a remote: those calls of DVC's filesystem that `wire` makes.

DVC's own brings fsspec, asyncio and more, 0.2 s of imports, to call what is called here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, cast

_BLOCK = 16 << 20


class Folder:
    """The filesystem; with `shared`, others of the group write to its folders too."""

    protocol = "local"
    join = staticmethod(os.path.join)
    parent = staticmethod(os.path.dirname)

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared

    def info(self, paths: Iterable[str], **_how: Any) -> list[dict[str, Any] | OSError]:
        """What is known of each path, or why nothing is."""
        return [_info(path) for path in paths]

    def ls(self, path: str, **_how: Any) -> list[dict[str, Any]]:
        """What is known of all that lies in a folder."""
        found = (_info(os.path.join(path, name)) for name in os.listdir(path))  # noqa: PTH118, PTH208
        return [each for each in found if isinstance(each, dict)]

    def open(self, path: str, mode: str) -> BinaryIO:
        """Open a file."""
        return cast(BinaryIO, open(path, mode, buffering=0))  # noqa: PTH123

    def put_file(self, source: str, target: str, callback: Callable[[int], None]) -> None:
        """Copy a file; where the file system can, it shares the blocks (copy_file_range(2))."""
        if sys.platform != "linux":
            from dvc_objects.fs.utils import copyfile

            copyfile(source, target)
            return
        with open(source, "rb", buffering=0) as here, open(target, "wb") as there:  # noqa: PTH123
            with contextlib.suppress(OSError):  # not between these two; a full disk is met again
                while count := os.copy_file_range(here.fileno(), there.fileno(), _BLOCK):
                    callback(count)
            shutil.copyfileobj(here, there, _BLOCK)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)  # noqa: PTH108

    def makedirs(self, path: str, **_how: Any) -> None:
        """Make a folder, as DVC does (dvc_data/hashfile/db/local.py)."""
        if self._shared:
            from dvc_objects.fs.utils import makedirs

            makedirs(path, exist_ok=True, mode=0o2775)
        else:
            os.makedirs(path, exist_ok=True)  # noqa: PTH103


def _info(path: str) -> dict[str, Any] | OSError:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error
    kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
    return {"name": path, "size": found.st_size, "type": kind, "mtime": found.st_mtime}
