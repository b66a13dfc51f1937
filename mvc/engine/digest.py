"""The digest that pins a base's files, and a memory of hashes: gigabytes are read once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def of_files(files: Iterable[Path], memory: Path) -> str:
    """The sha256 over the sorted lines "name sha256" of `files`.

    Args:
        files: what is pinned.
        memory: the folder in which hashes are remembered, by path, size, mtime and inode.

    Raises:
        OSError: a file cannot be read.
    """
    lines = sorted(f"{path.name} {_sha256(path, memory)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path, memory: Path) -> str:
    stat = path.stat()
    where = str(path.resolve())
    identity = [where, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    note = memory / hashlib.sha256(where.encode()).hexdigest()
    try:
        known = json.loads(note.read_bytes())
        if known["identity"] == identity:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file written this very second may change again without a new mtime: not remembered.
    if time.time_ns() - stat.st_mtime_ns > 2_000_000_000:
        _remember(note, {"identity": identity, "sha256": digest})
    return digest


def _remember(note: Path, content: dict[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f"{note.name}.{os.getpid()}")
        scratch.write_text(json.dumps(content))
        scratch.replace(note)
    except OSError:
        pass  # a memory only: a read-only or full cache costs time, not truth
