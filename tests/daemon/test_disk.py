"""A disk that is really full, and one that cannot be written to, under a real daemon."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from mvc.daemon import loop
from mvc.errors import StoreError
from mvc.ops import init
from mvc.store.layout import Layout
from tests.daemon.conftest import QUICK, batches_of, done, failed, fill, state, until
from tests.ops.conftest import SETS, edit, sound
from tests.ops.test_disk import Ballast, _call, on_small_disk

_REMOUNT_READ_ONLY = 32 | 1


def test_a_full_disk_is_waited_for_and_no_file_is_blamed(tiny_base: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    fill(inbox, 3)

    def act(disk: Path) -> tuple[int, bool]:
        at = Layout(init.init(disk / "model", str(tiny_base), sets=[*SETS, *QUICK]).root)
        edit(at, "watch.min_free_gb=0")
        stop = threading.Event()
        ballast = Ballast(disk)
        ballast.leave(40)
        daemon = threading.Thread(
            target=loop.run, args=(at, inbox), kwargs={"should_stop": stop.is_set}
        )
        daemon.start()
        try:
            until(lambda: state(at) == "waiting for disk")
            assert len(batches_of(at)) < 3
            assert not (inbox / "failed").exists() or failed(inbox) == []
            ballast.drop()
            until(lambda: len(batches_of(at)) == 3)
            until(lambda: len(done(inbox)) == 3)
        finally:
            stop.set()
            daemon.join()
        return len(batches_of(at)), sound(at)

    assert on_small_disk(tmp_path / "disk", act) == (3, True)


def test_a_repo_that_cannot_be_written_to_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    fill(inbox, 1)

    def act(disk: Path) -> str:
        at = Layout(init.init(disk / "model", str(tiny_base), sets=[*SETS, *QUICK]).root)
        flags = ctypes.c_ulong(_REMOUNT_READ_ONLY)
        _call("mount", b"tmpfs", os.fsencode(disk), b"tmpfs", flags, None)
        with pytest.raises(StoreError) as caught:
            loop.run(at, inbox, once=True)
        return caught.value.message

    assert "cannot be written to" in on_small_disk(tmp_path / "disk", act)
    assert [path.name for path in inbox.iterdir()] == ["day-000.jsonl"]
