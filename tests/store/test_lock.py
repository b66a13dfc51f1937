"""The writers' lock, with other processes that really hold it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvc.errors import LockHeld, StoreError
from mvc.store.layout import Layout
from mvc.store.lock import Lock, holder

HOLD = """
import sys, time
from pathlib import Path
from mvc.store.layout import Layout
from mvc.store.lock import Lock
with Lock(Layout(Path(sys.argv[1])), sys.argv[3]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextlib.contextmanager
def another(
    root: Path, seconds: float = 60, command: str = "mvc train day-01.jsonl"
) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `root`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), str(seconds), command],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_free_lock(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert holder(layout) is None
    assert not layout.private.exists()
    for _ in range(2):
        with Lock(layout, "mvc gc"):
            told = json.loads((layout.private / "lock.json").read_text())
            assert told["pid"] == os.getpid()
            assert told["command"] == "mvc gc"
        assert holder(layout) is None
        assert not (layout.private / "lock.json").exists()


def test_it_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lock(Layout(tmp_path), "mvc gc"):
        raise ZeroDivisionError
    with Lock(Layout(tmp_path), "mvc gc"):
        pass


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        with pytest.raises(LockHeld) as caught, Lock(Layout(tmp_path), "mvc gc"):
            pass
        for words in ("`mvc train day-01.jsonl`", f"process {process.pid}", os.uname().nodename):
            assert words in caught.value.message
        assert "since 20" in caught.value.message
        assert "mvc status" in caught.value.hint
        told = holder(Layout(tmp_path))
        assert told is not None
        assert f"process {process.pid}" in told
        # Asking disturbed nothing.
        with pytest.raises(LockHeld, match=str(process.pid)), Lock(Layout(tmp_path), "mvc gc"):
            pass


def test_a_dead_holder_frees_it_at_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with another(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (layout.private / "lock.json").exists()
        assert holder(layout) is None
        with Lock(layout, "mvc gc"):
            assert json.loads((layout.private / "lock.json").read_text())["pid"] == os.getpid()


def test_waiting(tmp_path: Path) -> None:
    with another(tmp_path, seconds=0.6):
        begun = time.monotonic()
        with Lock(Layout(tmp_path), "mvc gc", wait_s=30):
            assert 0.1 < time.monotonic() - begun < 20


def test_a_daemon_s_commit_is_waited_for_and_a_batch_is_not(tmp_path: Path) -> None:
    with another(tmp_path, 1, "mvc watch inbox"), Lock(Layout(tmp_path), "mvc snapshot"):
        pass
    with another(tmp_path), pytest.raises(LockHeld), Lock(Layout(tmp_path), "mvc snapshot"):
        pass


def test_a_daemon_that_has_not_said_its_name_yet_is_waited_for_too(tmp_path: Path) -> None:
    """It takes the lock, and writes a moment later who it is: a gc beside it was refused."""
    with another(tmp_path, 2, "mvc watch inbox"):
        details = Layout(tmp_path).private / "lock.json"
        said = details.read_bytes()
        details.unlink()
        threading.Timer(0.6, details.write_bytes, [said]).start()
        with Lock(Layout(tmp_path), "mvc gc"):
            pass


def test_asking_turns_no_writer_away(tmp_path: Path) -> None:
    """`holder` takes a free lock for an instant; a writer outlasts that."""
    layout = Layout(tmp_path)
    ask = (
        "import sys; from pathlib import Path; from mvc.store.layout import Layout\n"
        "from mvc.store.lock import holder\n"
        "while True: holder(Layout(Path(sys.argv[1])))"
    )
    layout.private.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ask, str(tmp_path)])
    try:
        for _ in range(30):
            # As a dead holder leaves it: that is when asking needs the kernel's word.
            (layout.private / "lock.json").write_text("{}")
            time.sleep(0.01)
            with Lock(layout, "mvc gc"):
                pass
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["", "{}", "[]", "\xff", "null"])
def test_a_holder_whose_details_are_damaged(tmp_path: Path, text: str) -> None:
    with another(tmp_path):
        (tmp_path / ".mvc" / "lock.json").write_text(text, encoding="latin-1")
        assert holder(Layout(tmp_path)) == "a process that did not say its name"


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".mvc").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written to") as caught:
        Lock(Layout(tmp_path), "mvc gc").__enter__()
    assert "mvc log" in caught.value.hint


def test_a_full_disk_still_lets_gc_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The details are a courtesy; without them the lock holds all the same."""

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with Lock(Layout(tmp_path), "mvc gc"):
        assert not (tmp_path / ".mvc" / "lock.json").exists()
