"""A full disk leaves the old state whole and says so; with room again the same command goes on.

The disk is really full: the model repo lies on a small tmpfs, which is mounted in a mount
namespace of the child that runs the test, so that it is gone with that child in any case. Root may
do this, and so may anyone where user namespaces are allowed. Elsewhere a small /dev/shm (64 MiB in
a container) is filled; where there is none either, the limit is the process's own (RLIMIT_FSIZE),
which shows that the old state stays whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from mvc.errors import DiskFull
from mvc.ops import fsck, init, train
from mvc.store import history
from mvc.store.layout import Layout
from mvc.types import Silent, StepReport
from tests.ops.conftest import SETS, Heard, state_bytes, train_one, write_batch
from tests.processes import in_process

T = TypeVar("T")

STEPS = 6
DISK_BYTES = 32 * 2**20
PAGE_BYTES = 4096
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC_PRIVATE = 16384 | 1 << 18


# --- a disk of our own --------------------------------------------------------------------------


def _call(name: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(folder: Path) -> None:
    """A tmpfs on `folder` that only this process and its children see."""
    if os.geteuid() == 0:
        _call("unshare", _CLONE_NEWNS)
    else:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)
    options = f"size={DISK_BYTES}".encode()
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), options)


def on_small_disk(folder: Path, act: Callable[[Path], T]) -> T:
    """What `act` returns in a child that has a small disk, whose folder it is given."""
    folder.mkdir()

    def child() -> T:
        try:
            _mount(folder)
        except OSError as error:
            shared = Path("/dev/shm")
            if not shared.is_mount() or _total(shared) > 8 * DISK_BYTES:
                pytest.skip(f"{error}; the test with RLIMIT_FSIZE runs here instead")
            with tempfile.TemporaryDirectory(dir=shared) as found:
                return act(Path(found))
        return act(folder)

    return in_process(child)


def _total(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


class Ballast:
    """A file that leaves a disk as little room as one wants."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def leave(self, pages: int) -> None:
        """Fill the disk until so many pages of 4096 bytes are free."""
        with self.path.open("ab", buffering=0) as file:
            while (room := self._free() - pages * PAGE_BYTES) > 0:
                file.write(bytes(min(room, 2**20)))

    def drop(self) -> None:
        """Free everything."""
        self.path.unlink()

    def _free(self) -> int:
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize


class FillsAt(Silent):
    """A progress display during which the disk fills up: at a step, or when a stage begins."""

    def __init__(self, ballast: Ballast, when: int | str, pages: int) -> None:
        self.ballast, self.when, self.pages = ballast, when, pages

    def stage(self, text: str) -> None:
        if text == self.when:
            self.ballast.leave(self.pages)

    def step(self, report: StepReport) -> None:
        if report.point.step == self.when:
            self.ballast.leave(self.pages)


# --- the line -----------------------------------------------------------------------------------


@dataclass
class Line:
    """A prepared model repo with one batch, and the bits that its second one leads to."""

    at: Layout
    data: Path
    old: dict[str, bytes]
    new: dict[str, bytes]


@pytest.fixture(scope="module")
def line(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("disk")
    made = init.init(folder / "model", str(tiny_base), sets=[*SETS, "train.checkpoint_steps=2"])
    at = Layout(made.root)
    first, data = (write_batch(folder / f"{i}.jsonl", 20 * i, 2 * STEPS) for i in range(2))
    train.dry_run(at, [data])  # what is imported here, no child has to import
    in_process(partial(train_one, at, first))
    undisturbed = _copy(at, folder / "undisturbed")
    in_process(partial(train_one, undisturbed, data))
    return Line(at, data, state_bytes(at), state_bytes(undisturbed))


def _copy(at: Layout, to: Path) -> Layout:
    subprocess.run(["cp", "-a", at.root, to], check=True)
    return Layout(to)


def git(at: Layout, *args: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", *args],
        cwd=at.root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def assert_old(at: Layout, line: Line) -> None:
    """Nothing happened: HEAD, state and work tree are what they were."""
    assert git(at, "rev-parse", "HEAD") == git(line.at, "rev-parse", "HEAD")
    assert git(at, "status", "--porcelain") == ""
    assert state_bytes(at) == line.old


def assert_goes_on(at: Layout, line: Line, first_step: int | None = None) -> None:
    """The same train gives the undisturbed bits in one commit, from that step if one is given."""
    heard = Heard()
    train_one(at, line.data, progress=heard)
    if first_step is not None:
        assert heard.starts == [(line.data.name, STEPS, first_step)]
    assert state_bytes(at) == line.new
    assert [c.kind for c in history.log(at.root)] == ["batch", "batch", "init"]
    assert git(at, "status", "--porcelain") == ""
    assert fsck.fsck(at).findings == ()
    assert not at.run.exists() and not at.journal.exists()


# --- full ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "first_step"), [(1, 0), (3, 2), (5, 4)], ids=["first", "second", "last"]
)
def test_full_at_a_checkpoint(step: int, first_step: int, line: Line, tmp_path: Path) -> None:
    def act(disk: Path) -> None:
        at, ballast = _copy(line.at, disk / "model"), Ballast(disk)
        for pages in (0, 3):  # nothing fits; a file of the checkpoint fits, not all of it
            with pytest.raises(DiskFull) as full:
                train_one(at, line.data, progress=FillsAt(ballast, step, pages))
            assert full.value.exit_code == 1
            assert "old state is whole" in full.value.message
            assert "free some space" in full.value.hint
            assert_old(at, line)
            ballast.drop()
            assert_old(at, line)
            if pages == 0:
                shutil.rmtree(at.root)
                _copy(line.at, disk / "model")
        assert_goes_on(at, line, first_step)

    on_small_disk(tmp_path / "disk", act)


def test_full_at_promotion(line: Line, tmp_path: Path) -> None:
    """The disk fills up when all is trained, and leaves more room from try to try.

    With each a later write fails: the cache's listing, git's objects, the journal, the ref, the
    work tree's files.
    """
    said = []

    def act(disk: Path) -> list[str]:
        for pages in (0, 1, 2, 4, 6, 9, 12, 16, 20, 24, 32):
            at, ballast = _copy(line.at, disk / "model"), Ballast(disk)
            try:
                train_one(at, line.data, progress=FillsAt(ballast, "Committing", pages))
                said.append("done")
            except DiskFull as full:
                said.append(full.message)
                assert full.exit_code == 1 and "free some space" in full.hint
                if "old state is whole" in full.message:
                    assert_old(at, line)
                else:
                    assert f"commit {git(at, 'rev-parse', 'HEAD')[:10]} is recorded" in full.message
                ballast.drop()
            assert_goes_on(at, line)
            if said[-1] == "done":
                break
            shutil.rmtree(at.root)
        return said

    said = on_small_disk(tmp_path / "disk", act)
    print("\n".join(said))
    assert sum("old state is whole" in each for each in said) >= 3
    assert said[-1] == "done"


def test_full_at_once(line: Line, tmp_path: Path) -> None:
    """Not even the lock's note can be written, nor the data copied."""

    def act(disk: Path) -> None:
        at, ballast = _copy(line.at, disk / "model"), Ballast(disk)
        ballast.leave(0)
        with pytest.raises(DiskFull) as full:
            train_one(at, line.data)
        assert full.value.exit_code == 1
        assert_old(at, line)
        ballast.drop()
        assert_goes_on(at, line, 0)

    on_small_disk(tmp_path / "disk", act)


def test_dvcs_own_database_on_the_full_disk(line: Line, tmp_path: Path) -> None:
    """DVC keeps what it knows of files in SQLite, by default outside of the repo."""

    def act(disk: Path) -> str:
        os.environ["DVC_SITE_CACHE_DIR"] = str(disk / "site")
        at, ballast = _copy(line.at, disk / "model"), Ballast(disk)
        with pytest.raises(DiskFull) as full:
            train_one(at, line.data, progress=FillsAt(ballast, "Committing", 0))
        assert "old state is whole" in full.value.message
        assert_old(at, line)
        ballast.drop()
        assert_goes_on(at, line)
        return full.value.message

    on_small_disk(tmp_path / "disk", act)


def test_the_command_says_so(line: Line, tmp_path: Path) -> None:
    """Through the command line: exit code 1, Error and Hint, no traceback."""

    def act(disk: Path) -> tuple[int, str]:
        from mvc.cli import main

        told = io.StringIO()

        at, ballast = _copy(line.at, disk / "model"), Ballast(disk)
        ballast.leave(20)
        with contextlib.redirect_stderr(told):
            code = main.run(["-C", str(at.root), "train", str(line.data)])
        assert_old(at, line)
        ballast.drop()
        assert main.run(["-C", str(at.root), "train", str(line.data)]) == 0
        assert state_bytes(at) == line.new
        return code, told.getvalue()

    code, told = on_small_disk(tmp_path / "disk", act)
    assert code == 1
    assert "Error: " in told and "full" in told and "old state is whole" in told
    assert "Hint: free some space" in told
    assert "Traceback" not in told


class Limited(Silent):
    """A progress display that limits the size of files when the model is loaded."""

    def stage(self, text: str) -> None:
        if text == "Loading the model":
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))


def test_a_file_that_may_not_grow(line: Line, tmp_path: Path) -> None:
    """Runs everywhere: the kernel refuses to let a checkpoint's file grow beyond a limit."""
    at = _copy(line.at, tmp_path / "model")
    assert len(line.new["optimizer.pt"]) > 8000

    def act() -> None:
        with pytest.raises(OSError) as refused:
            train_one(at, line.data, progress=Limited())
        assert refused.value.errno == errno.EFBIG

    in_process(act)
    assert_old(at, line)
    in_process(partial(assert_goes_on, at, line, 0))
