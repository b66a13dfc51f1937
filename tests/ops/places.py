"""Where the tests of sharing share: a bare git repository and objects, by each real protocol."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from mvc.ops import clone, push, remote
from mvc.store.layout import Layout
from tests.ops.lines import START, whole
from tests.servers import S3, Sshd, s3, sshd
from tests.store.sharing import Bytes, in_bucket, in_folder
from tests.wire import Relay

__all__ = ["place", "relay", "s3", "server", "sshd"]


class Place(msgspec.Struct):
    """A remote: its git URL and folder, its objects, the server, and what must stay secret."""

    git: str
    hub: Path
    held: Bytes
    server: Sshd | S3 | None
    secrets: tuple[str, ...]

    def share(self, at: Layout) -> None:
        """Add it to `at` as `origin` and push to it."""
        remote.add(at, "origin", self.git, self.held.url, self.held.options, now=START)
        push.push(at)

    def cloned(self, at: Path, **options: object) -> Layout:
        """A clone of it in `at`, by `mvc clone`."""
        made = clone.clone(self.git, at, options=self.held.options, **options)  # type: ignore[arg-type]
        return Layout(made.root)

    def through(self, relay: Relay) -> Place:
        """The same place behind a relay; on S3 only the objects, for git's folder needs none."""
        if isinstance(self.server, Sshd):
            here, there = f":{self.server.port}", f":{relay.port}"
            for known in (self.server.known_hosts, Path.home() / ".ssh" / "known_hosts"):
                key = known.read_text()
                known.write_text(key + key.replace(here, there))
            held = replace(self.held, url=self.held.url.replace(here, there))
            return replace(self, git=self.git.replace(here, there), held=held)
        options = self.held.options | {"endpointurl": f"http://127.0.0.1:{relay.port}"}
        return replace(self, held=replace(self.held, options=options))

    def whole(self) -> int:
        """That a stranger can have every commit, and no object's name lies; how many commits."""
        held = self.held.all()
        for name, data in held.items():
            if not name.endswith(".tmp"):  # half-sent, under a name of its own
                assert hashlib.md5(data).hexdigest() == name.removesuffix(".dir"), name
        return whole(held, self.hub)


def _place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    hub, store = folder / "hub.git", folder / "store"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(hub)], check=True)
    match kind:
        case "folder":
            return Place(str(hub), hub, in_folder(store, str(store), {}), None, ())
        case "ssh":
            ssh: Sshd = request.getfixturevalue("sshd")
            store.mkdir()
            held = in_folder(store, ssh.url(store), ssh.options)
            return Place(ssh.url(hub), hub, held, ssh, (str(ssh.keyfile),))
        case _:
            bucket: S3 = request.getfixturevalue("s3")
            return Place(str(hub), hub, in_bucket(bucket), bucket, (bucket.secret_access_key,))


@pytest.fixture(params=["folder", "ssh", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty remote of each kind."""
    return _place(request.param, request, tmp_path)


@pytest.fixture
def relay(server: Place) -> Iterator[Relay]:
    """What stands before `server` for who uses `server.through(relay)`."""
    assert server.server is not None
    made = Relay(server.server.port)
    yield made
    made.close()


@pytest.fixture(params=["ssh", "s3"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty remote behind a server."""
    return _place(request.param, request, tmp_path)
