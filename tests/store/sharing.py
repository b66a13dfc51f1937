"""Two clones and a remote between them, without a model, for the tests of sharing in the store."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mvc.ops import record
from mvc.sharing import Wanted
from mvc.store import manifest, objects, remotes, workspace
from mvc.store.layout import BATCH, STATE, Layout
from tests.servers import S3, Sshd, s3, sshd
from tests.store.conftest import batch_commit, content, git, make

__all__ = ["s3", "sshd"]


def commit(layout: Layout, seed: int, num_bytes: int = 0) -> str:
    """A batch without training whose pointers vouch for sizes and SHA-256, as mvc's do."""
    shutil.rmtree(layout.run, ignore_errors=True)
    new = batch_commit(layout, seed)
    if num_bytes:
        big = layout.run / "state" / "optimizer.bin"
        big.parent.mkdir(parents=True, exist_ok=True)
        big.write_bytes(random.Random(seed).randbytes(num_bytes))
    pointers = []
    for pointer in new.pointers:
        folder = {STATE: layout.run / "state", BATCH: layout.run}[pointer.path]
        cache = objects.cache_folder(layout)
        files = [
            objects.hash_file(objects.object_path(cache, md5), path)
            for path, md5, _ in objects.entries(layout, pointer)
        ]
        if num_bytes and pointer.path == STATE:
            files.append(objects.hash_file(big, "optimizer.bin"))
        meta = record.files_meta(files)
        pointers.append(objects.store_folder(layout, folder, files, pointer.path, meta))
        if pointers[-1].md5 != pointer.md5:  # nothing names the first listing any more
            objects.object_path(cache, pointer.md5).unlink()
    return workspace.promote(layout, replace(new, pointers=tuple(pointers)))


def make_line(root: Path, num_commits: int = 2, num_bytes: int = 0) -> tuple[Layout, list[str]]:
    """A model repo with commits 0, 1, ...; its commits, oldest first."""
    layout = make(root)
    return layout, [commit(layout, seed, num_bytes) for seed in range(num_commits)]


def clone(layout: Layout, root: Path) -> Layout:
    """What `git clone` makes: no object is in its cache."""
    git(layout.root.parent, "clone", "-q", str(layout.root), str(root))
    config = layout.root / ".dvc" / "config.local"
    (root / ".dvc" / "config").write_bytes((layout.root / ".dvc" / "config").read_bytes())
    if config.exists():
        (root / ".dvc" / "config.local").write_bytes(config.read_bytes())
    return Layout(root)


def sent(wanted: list[Wanted]) -> list[tuple[str, int | None]]:
    """What `transfer.push` takes."""
    return [(item.md5, item.size_bytes) for item in wanted]


def all_of(layout: Layout, commits: list[str]) -> list[Wanted]:
    return manifest.objects(layout, commits)


def cached(layout: Layout) -> dict[str, bytes]:
    """Every object in a cache by its md5; files with other names are there too."""
    cache = objects.cache_folder(layout)
    return {
        "".join(path.relative_to(cache).parts): path.read_bytes()
        for path in cache.rglob("*")
        if path.is_file()
    }


class Bytes(msgspec.Struct):
    """A remote's content behind its protocol's back: what is there, and how to damage it."""

    url: str
    options: dict[str, str]
    all: Callable[[], dict[str, bytes]]
    write: Callable[[str, bytes | None], None]


def in_folder(folder: Path, url: str, options: dict[str, str]) -> Bytes:
    base = folder / "files" / "md5"

    def look() -> dict[str, bytes]:
        return {name.replace("/", ""): data for name, data in content(base).items()}

    def write(md5: str, data: bytes | None) -> None:
        path = base / md5[:2] / md5[2:]
        path.unlink(missing_ok=True)
        if data is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    return Bytes(url, options, look, write)


def in_bucket(server: S3) -> Bytes:
    client: Any = server.client()
    prefix = "model/files/md5/"

    def look() -> dict[str, bytes]:
        listed = client.list_objects_v2(Bucket=server.bucket, Prefix=prefix).get("Contents", [])
        return {
            each["Key"].removeprefix(prefix).replace("/", ""): client.get_object(
                Bucket=server.bucket, Key=each["Key"]
            )["Body"].read()
            for each in listed
        }

    def write(md5: str, data: bytes | None) -> None:
        key = f"{prefix}{md5[:2]}/{md5[2:]}"
        if data is None:
            client.delete_object(Bucket=server.bucket, Key=key)
        else:
            client.put_object(Bucket=server.bucket, Key=key, Body=data)

    return Bytes(server.url(), server.options, look, write)


@pytest.fixture(params=["folder", "ssh", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Bytes:
    """A data remote of each protocol, each by its real server."""
    folder = tmp_path / "data"
    match request.param:
        case "folder":
            return in_folder(folder, str(folder), {})
        case "ssh":
            server: Sshd = request.getfixturevalue("sshd")
            return in_folder(folder, server.url(folder), server.options)
        case _:
            return in_bucket(request.getfixturevalue("s3"))


@pytest.fixture
def local(tmp_path: Path) -> Bytes:
    return in_folder(tmp_path / "data", str(tmp_path / "data"), {})


class Pair(msgspec.Struct):
    """Clone A with commits and all objects, clone B with the commits alone."""

    a: Layout
    b: Layout
    commits: list[str]
    wanted: list[Wanted]


def pair(place: Bytes, folder: Path, num_commits: int = 2, num_bytes: int = 0) -> Pair:
    a, commits = make_line(folder / "a", num_commits, num_bytes)
    remotes.add(a, "origin", str(a.root), place.url, place.options)
    b = clone(a, folder / "b")
    return Pair(a, b, commits, all_of(a, commits))


def of_kind(wanted: list[Wanted]) -> list[Wanted]:
    """One object of each kind: adapter, optimizer, batch, and a listing."""
    ends = ("adapter.safetensors", "optimizer.pt", "data.jsonl", "current_model.dvc")
    return [next(item for item in wanted if item.path.endswith(end)) for end in ends]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
