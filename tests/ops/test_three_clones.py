"""Three clones over each kind of remote, with the real protocol on loopback.

A commits and pushes; B clones, commits, pushes; A pulls and goes on; C has it all. That the bits
of real training are those of one machine is `test_pull.py`'s, over a folder.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvc.ops import checkout, clone, pull, push, remote
from mvc.store.layout import Layout
from tests.ops.lines import commit, content, dvc, git, new_line, state_of
from tests.servers import S3, Sshd, s3, sshd

__all__ = ["s3", "sshd"]


@dataclass
class Place:
    """Where to share: both URLs, DVC's options for every machine, and what must stay secret."""

    git: str
    data: str
    options: dict[str, str]
    secrets: tuple[str, ...]


@pytest.fixture(params=["folder", "ssh", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    hub, store = tmp_path / "hub.git", tmp_path / "store"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(hub)], check=True)
    if request.param == "folder":
        return Place(str(hub), str(store), {}, ())
    if request.param == "ssh":
        ssh: Sshd = request.getfixturevalue("sshd")
        store.mkdir()
        return Place(ssh.url(hub), ssh.url(store), ssh.options, (str(ssh.keyfile),))
    bucket: S3 = request.getfixturevalue("s3")
    return Place(str(hub), bucket.url(), bucket.options, (bucket.secret_access_key,))


def test_three_clones(place: Place, tmp_path: Path) -> None:
    a = new_line(tmp_path / "a", 1)
    remote.add(a, "origin", place.git, place.data, place.options)
    assert len(push.push(a).commits) == 3

    def cloned(name: str) -> Layout:
        return Layout(clone.clone(place.git, tmp_path / name, options=place.options).root)

    b = cloned("b")
    assert content(b.state) == state_of(1, tmp_path)
    commit(b, 2)
    sent = push.push(b)
    assert len(sent.commits) == 1
    assert pull.pull(a).objects.num_bytes == sent.objects.num_bytes
    assert content(a.state) == state_of(2, tmp_path)
    commit(a, 3)
    push.push(a)
    c = cloned("c")
    assert content(c.state) == state_of(3, tmp_path)
    assert content(c.batch) == content(a.batch)
    checkout.checkout(c, "@1")  # an older state, on demand
    assert content(c.state) == state_of(1, tmp_path)
    checkout.checkout(c, "main")
    assert "up to date" in dvc(c.root, "status")
    for secret in place.secrets:
        for at in (a, b, c):
            assert git(at.root, "log", "--all", "-p", f"-S{secret}") == ""
            assert secret not in (at.root / ".dvc" / "config").read_text()
