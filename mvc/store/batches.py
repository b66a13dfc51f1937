"""Which batches are in a line, remembered: so that asking costs the same at any length of it.

Owns `.mvc/batches.json`: a commit, and the batches in its state by the MD5 of their data. What is
in a commit's state never changes, so the file is never wrong, only old or absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from mvc.store.files import atomic_write
from mvc.store.layout import PRIVATE
from mvc.types import Commit

_FILE = "batches.json"


class _Batches(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    commit: str = ""
    by_md5: dict[str, str] = {}


def of_line(root: Path, line: Iterable[Commit]) -> dict[str, str]:
    """The newest batch of each data in a state, by the data's MD5.

    Args:
        root: The repo.
        line: The commits whose learning is in the state, newest first (`history.effective_line`).
            Read down to the commit where it was asked last; wholly where that is not among them.
    """
    known, found, newest = _read(root), dict[str, str](), ""
    for each in line:
        newest = newest or each.commit
        if each.commit == known.commit:
            found = known.by_md5 | found
            break
        if each.kind == "batch" and each.data:
            found.setdefault(each.data.md5, each.commit)
    if newest != known.commit and (root / PRIVATE).is_dir():
        atomic_write(root / PRIVATE / _FILE, msgspec.json.encode(_Batches(newest, found)))
    return found


def _read(root: Path) -> _Batches:
    try:
        return msgspec.json.decode((root / PRIVATE / _FILE).read_bytes(), type=_Batches)
    except (OSError, msgspec.MsgspecError):
        return _Batches()
