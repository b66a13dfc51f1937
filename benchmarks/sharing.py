"""Push and pull of one batch over a folder, SSH and S3, beside `dvc push` + `git push`.

Two equal lines, one for mvc and one for plain git and DVC, each with a remote and a clone of its
own. Each turn adds one batch of 60 MB to both, sends it and brings it: at the user's size the
bytes, which are the same, would hide what else each does. sshd and the S3 server (moto) are real
processes on loopback.

    python -m benchmarks.sharing
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import frame
from mvc.ops import clone, push, remote
from mvc.store.layout import Layout
from tests.ops import lines
from tests.servers import S3, Sshd, run_s3, run_sshd

TURNS = 5
ADAPTER = 20_000_000
"""Bytes of the adapter; the moments are twice that."""


@dataclass
class Side:
    """A line, its clone, and how many batches it has; `stored` counts the bytes on the remote."""

    at: Layout
    clone: Layout
    stored: Callable[[], int]
    seed: int = 1


def main() -> None:
    """Measure, write results/sharing.json."""
    lines.ADAPTER = ADAPTER
    rows = []
    with frame.workplace() as folder, ExitStack() as servers:
        for kind in ("folder", "SSH", "S3"):
            frame.tell(kind)
            try:
                server = start(kind, folder / kind, servers)
            except pytest.skip.Exception as missing:  # no sshd here
                what = f"push and pull of one batch, {kind}"
                rows.append(frame.not_run(what, "`dvc push` + `git push`", "", str(missing)))
                continue
            sides = [side(folder / f"{kind}-{who}", server) for who in ("mvc", "plain")]
            rows += compared(kind, *sides)
    frame.write("sharing", rows)


def compared(kind: str, ours: Side, theirs: Side) -> list[frame.Row]:
    """The rows of one kind of remote."""

    def mvc(word: str, root: Path) -> float:
        return frame.call("mvc", word, cwd=root)

    def plain(word: str, root: Path) -> float:
        if word == "push":  # objects first, as a careful user does
            seconds = frame.call("dvc", "push", "-q", "-r", "origin", cwd=root)
            return seconds + frame.call("git", "push", "-q", "origin", "main", cwd=root)
        seconds = frame.call("git", "pull", "-q", "--ff-only", "origin", "main", cwd=root)
        return seconds + frame.call("dvc", "pull", "-q", "-r", "origin", cwd=root)

    def batch(which: Side) -> Path:
        which.seed += 1
        lines.commit(which.at, which.seed)
        frame.settle(1 << 28)
        return which.at.root

    def settled(which: Side) -> Path:
        frame.settle(1 << 28)
        return which.clone.root

    found = frame.interleaved(
        {
            "mvc push": lambda: mvc("push", batch(ours)),
            "plain push": lambda: plain("push", batch(theirs)),
            "mvc pull": lambda: mvc("pull", settled(ours)),
            "plain pull": lambda: plain("pull", settled(theirs)),
        },
        TURNS,
        warm=1,
        forwards=True,
    )
    bytes_ = ours.stored(), theirs.stored()
    same = "stored bytes equal"
    if bytes_[0] != bytes_[1]:
        same = f"STORED BYTES DIFFER: {bytes_[0]}, {bytes_[1]}"
    megabytes = 3 * ADAPTER // 1_000_000
    return [
        frame.row(
            f"push of one batch of {megabytes} MB, {kind}", "`dvc push` + `git push`",
            found["mvc push"], found["plain push"], at_most=0.8,
            why=f"{same}; mvc hashes each object before it goes, fsyncs it where it can, gives it "
            "its name when it is whole, and asks the git remote first: over SSH a connection more",
        ),
        frame.row(
            f"pull of one batch of {megabytes} MB, {kind}", "`git pull` + `dvc pull`",
            found["mvc pull"], found["plain pull"], at_most=0.8,
            why="mvc checks md5 and SHA-256 of what arrives and again before the branch moves, "
            "fsyncs it, and journals the move",
        ),
    ]  # fmt: skip


def side(folder: Path, server: Sshd | S3 | None) -> Side:
    """A line with one batch, shared, and a clone of it."""
    folder.mkdir()
    hub, store = folder / "hub.git", folder / "store"
    store.mkdir()
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", hub], check=True)
    git_url, data_url, options = str(hub), str(store), dict[str, str]()

    def stored() -> int:
        return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())

    if isinstance(server, Sshd):
        git_url, data_url, options = server.url(hub), server.url(store), server.options
    elif isinstance(server, S3):
        data_url, options = server.url(folder.name), server.options

        def stored() -> int:
            pages = server.client().get_paginator("list_objects_v2")  # type: ignore[attr-defined]
            found = pages.paginate(Bucket=server.bucket, Prefix=folder.name)
            return sum(each["Size"] for page in found for each in page.get("Contents", ()))

    at = lines.new_line(folder / "line", batches=1)
    remote.add(at, "origin", git_url, data_url, options, now=lines.START)
    push.push(at)
    cloned = clone.clone(git_url, folder / "clone", options=options)
    return Side(at, Layout(cloned.root), stored)


def start(kind: str, folder: Path, servers: ExitStack) -> Sshd | S3 | None:
    """The server of that kind; git's ssh takes its home from passwd, so it is told all."""
    if kind == "SSH":
        sshd = servers.enter_context(run_sshd(folder))
        known = Path.home() / ".ssh" / "known_hosts"
        known.parent.mkdir(mode=0o700)
        known.write_text(sshd.known_hosts.read_text())
        os.environ["GIT_SSH_COMMAND"] = sshd.git_ssh_command
        return sshd
    if kind == "S3":
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        return servers.enter_context(run_s3(folder))
    return None


if __name__ == "__main__":
    main()
