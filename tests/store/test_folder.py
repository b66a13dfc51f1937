"""A folder as a remote: whole files, however the file system copies them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.store.folder import Folder

DATA = bytes(range(256)) * 400


shares_blocks = os.copy_file_range


def never(*_: int) -> int:
    raise OSError(errno.EXDEV, "not between these two")


def once() -> Callable[..., int]:
    left = [True]

    def copy(source: int, target: int, _: int) -> int:
        if not left:
            raise OSError(errno.EIO, "no more")
        left.clear()
        return os.write(target, os.read(source, 1000))

    return copy


@pytest.mark.parametrize("how", [shares_blocks, never, once()], ids=["shared", "never", "halfway"])
def test_a_file_arrives_whole(
    how: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(DATA)
    monkeypatch.setattr(os, "copy_file_range", how)
    heard: list[int] = []
    Folder().put_file(str(source), str(target), heard.append)
    assert target.read_bytes() == DATA
    assert sum(heard) <= len(DATA)


def test_what_is_there_is_told_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"1234")
    there, gone, inside = Folder().info(
        [str(tmp_path / "object"), str(tmp_path / "gone"), str(tmp_path / "object" / "x")]
    )
    assert isinstance(there, dict) and (there["size"], there["type"]) == (4, "file")
    assert isinstance(gone, FileNotFoundError)
    assert isinstance(inside, NotADirectoryError)
    assert [each["name"] for each in Folder().ls(str(tmp_path))] == [str(tmp_path / "object")]
