"""A file that is hashed and brought to the disk while it is written."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from mvc.engine import hashed
from mvc.engine.hashed import HashedFile


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed, "_AHEAD", 1000)


def test_what_is_written_is_on_the_disk_with_its_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    pieces = [bytes([number]) * 700 for number in range(9)]
    with HashedFile(tmp_path / "state") as file:
        for piece in pieces:
            file.write(piece)
            if file._syncing is not None:
                file._syncing.result()  # the disk's thread had its turn: it may else come last
    data = b"".join(pieces)
    assert (tmp_path / "state").read_bytes() == data
    assert file.digest.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert file.digest.sha256 == hashlib.sha256(data).hexdigest()
    assert file.digest.size_bytes == len(data)
    assert sizes[0] < len(data) == sizes[-1]


@pytest.mark.parametrize("more", [0, 3000], ids=["told by close", "told by the next write"])
def test_what_the_disk_refused_meanwhile_is_told(
    more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux tells it once: the fsync at the end would be content."""

    errors = [OSError(errno.EIO, "the disk is broken")]

    def refuse_once(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(os, "fsync", refuse_once)
    file = HashedFile(tmp_path / "state")
    with pytest.raises(OSError, match="the disk is broken"), file:
        file.write(bytes(1000))
        if more:
            assert file._syncing is not None
            file._syncing.exception()
            file.write(bytes(more))
    assert file.closed and file._file.closed
