"""Must-show 3 over real servers: SIGKILL at 20 moments of a push and of a pull, on each side.

The client dies at a send or a receive, or after some time; the server's session dies when some of
the bytes have passed. At no moment can another clone see a commit without its objects, or wrong
bytes under a right name, and the next try completes.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from mvc.errors import RemoteError
from mvc.ops import pull, push, snapshot
from mvc.store import manifest, objects, pointers
from tests.killing import killed_after, moments, run_and_kill, spread
from tests.ops import lines
from tests.ops.lines import commit, content, git, new_line, state_of, whole
from tests.ops.places import Place, relay, s3, server, sshd
from tests.servers import S3, Sshd, run_s3
from tests.store.sharing import in_bucket
from tests.wire import Relay, marked

__all__ = ["relay", "s3", "server", "sshd"]

pytestmark = pytest.mark.slow

AT_MOMENTS, IN_TIME, OF_SERVER = 12, 8, 20


class Pushing:
    """Clone a with a batch and a pin to push; `server` has two batches."""

    def __init__(self, server: Place, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.a = new_line(folder / "a")
        server.share(self.a)
        there = server.held.all().keys()
        new = commit(self.a, 3)
        snapshot.snapshot(self.a)
        self.new = {each.md5 for each in manifest.objects(self.a, [new])} - there
        for name in ("a", "hub.git"):
            copied(folder / name, folder / "safe" / name)

    def restore(self) -> None:
        for name in ("a", "hub.git"):
            copied(self.folder / "safe" / name, self.folder / name)
        for md5 in self.new:
            self.server.held.write(md5, None)

    def act(self) -> object:
        return push.push(self.a)

    def check(self) -> None:
        """Nobody was promised anything, and the next try completes."""
        assert self.server.whole() >= 4
        self.act()
        assert git(self.server.hub, "rev-parse", "main") == git(self.a.root, "rev-parse", "HEAD")
        assert git(self.server.hub, "tag")
        assert self.server.whole() == 5


class Pulling:
    """Clone b, which lacks a batch and a pin that `server` has."""

    def __init__(self, server: Place, folder: Path) -> None:
        self.folder = folder
        self.a = new_line(folder / "a")
        server.share(self.a)
        self.b = server.cloned(folder / "b")
        commit(self.a, 3)
        snapshot.snapshot(self.a)
        push.push(self.a)
        copied(self.b.root, folder / "safe")

    def restore(self) -> None:
        copied(self.folder / "safe", self.b.root)

    def act(self) -> object:
        return pull.pull(self.b)

    def check(self) -> None:
        """Nothing wrong is under a right name, and the next try completes."""
        b = self.b
        for path in objects.cache_folder(b).glob("??/*"):
            assert pointers.verify_object(b, path.parent.name + path.name) is None
        self.act()
        for said in (("rev-parse", "HEAD"), ("tag",)):
            assert git(b.root, *said) == git(self.a.root, *said)
        assert content(b.state) == state_of(3, self.folder)
        assert git(b.root, "status", "--porcelain") == ""
        assert not list(b.root.rglob(".mvc-*"))


def copied(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)


@pytest.mark.parametrize("case", [Pushing, Pulling])
def test_the_client_dies(
    server: Place,
    tmp_path: Path,
    case: type[Pushing] | type[Pulling],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "ADAPTER", 200_000)  # several writes each
    it = case(server, tmp_path)
    act = marked(it.act)
    it.restore()  # copies are no links any more: the undisturbed run is one of such a copy too
    began = time.monotonic()
    count = len(moments(act))
    whole_s = time.monotonic() - began
    num_killed = 0
    for nth in spread(count, AT_MOMENTS):
        it.restore()
        num_killed += run_and_kill(act, nth)
        it.check()
    assert num_killed >= AT_MOMENTS - 2
    for part in range(1, IN_TIME + 1):  # git's own part has no moments
        it.restore()
        killed_after(it.act, whole_s * part / IN_TIME)
        it.check()


@pytest.mark.parametrize("case", [Pushing, Pulling])
def test_the_server_s_session_dies(
    server: Place, relay: Relay, tmp_path: Path, case: type[Pushing] | type[Pulling]
) -> None:
    it = case(server.through(relay), tmp_path)
    die = server.server.kill_sessions if isinstance(server.server, Sshd) else relay.cut
    it.restore()
    relay.num_bytes = 0
    it.act()
    total = relay.num_bytes
    num_failed = 0
    for part in range(OF_SERVER):
        it.restore()
        try:
            with relay.cut_after(total * part // OF_SERVER, die):
                it.act()
        except RemoteError as error:
            num_failed += 1
            assert error.hint
        it.check()
    assert num_failed or not isinstance(server.server, Sshd)  # S3's clients try again


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_a_server_that_comes_back_empty_is_filled_again(
    server: Place, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # as a rule it asks for most of a minute
    it = Pushing(server.through(relay), tmp_path)
    assert isinstance(server.server, S3)
    pid, before = server.server.pid, git(server.hub, "rev-parse", "main")
    with (
        relay.cut_after(20_000, lambda: os.kill(pid, signal.SIGKILL)),
        pytest.raises(RemoteError, match="origin") as caught,
    ):
        it.act()
    assert "same command again" in caught.value.hint
    assert git(server.hub, "rev-parse", "main") == before
    with run_s3(tmp_path / "again") as again:
        relay.to = again.port
        push.push(it.a, all_states=True)
        assert whole(in_bucket(again).all(), server.hub) == 5
