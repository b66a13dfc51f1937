"""Manifests: what commits need, and that one which lies is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvc.errors import MvcError, ObjectCorrupt, ObjectMissing
from mvc.store import manifest, objects
from mvc.store.layout import BATCH_POINTER, STATE, STATE_POINTER, Layout
from tests.store.conftest import dvc, git
from tests.store.sharing import clone, make_line


@pytest.fixture
def repo(tmp_path: Path) -> tuple[Layout, list[str]]:
    return make_line(tmp_path / "a", 3)


def test_all_that_commits_need(repo: tuple[Layout, list[str]]) -> None:
    layout, commits = repo
    wanted = manifest.objects(layout, commits)
    cache = objects.cache_folder(layout)
    on_disk = {"".join(p.relative_to(cache).parts) for p in cache.rglob("*") if p.is_file()}
    assert {item.md5 for item in wanted} == on_disk
    assert len(wanted) == len(on_disk)
    for item in wanted:
        found = objects.hash_file(objects.object_path(cache, item.md5), "x")
        if not item.md5.endswith(".dir"):
            assert (item.size_bytes, item.sha256) == (found.size_bytes, found.sha256)
    assert [item.md5.endswith(".dir") for item in wanted] == sorted(
        item.md5.endswith(".dir") for item in wanted
    )
    paths = {item.path for item in manifest.files(layout, commits[-1:])}
    assert {f"{STATE}/adapter.safetensors", "batch/data.jsonl"} <= paths
    named = {i.path: i.commit for i in wanted}
    assert named[f"{STATE}/config.json"] == commits[0]


def test_listings_come_first(repo: tuple[Layout, list[str]], tmp_path: Path) -> None:
    layout, commits = repo
    other = clone(layout, tmp_path / "b")
    assert len(manifest.listings(other, commits)) == 5
    with pytest.raises(ObjectMissing):
        manifest.files(other, commits)


def test_what_plain_dvc_committed_has_md5_only(tmp_path: Path) -> None:
    layout, _ = make_line(tmp_path / "a", 1)
    layout.batch.mkdir()
    (layout.batch / "x.jsonl").write_text("plain\n")
    dvc(layout.root, "add", "-q", "batch")
    git(layout.root, "add", "-A")
    git(layout.root, "commit", "-q", "-m", "plain")
    tip = git(layout.root, "rev-parse", "HEAD").strip()
    (plain,) = [i for i in manifest.files(layout, [tip]) if i.path == "batch/x.jsonl"]
    assert plain.sha256 is None


def _forge(layout: Layout, name: str, change: dict[str, str] | bytes) -> str:
    """A commit whose pointer `name` was altered by hand."""
    path = layout.root / name
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        text = path.read_text()
        for old, new in change.items():
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)
    git(layout.root, "add", "-f", name)
    git(layout.root, "commit", "-q", "-m", "forged")
    return git(layout.root, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"    adapter.safetensors:": "    other.safetensors:"}, "adapter.safetensors"),
        ({"size: 3000": "size: 3001"}, "are declared"),
        ({"nfiles: 4": "nfiles: 5"}, "5 files"),
        ({"path: current_model": "path: batch"}, "its folder is 'batch'"),
        ({"path: current_model": "path: ../../x"}, "not inside"),
        ({".dir": ""}, "single file"),
        ({"size: 0": "size: -1"}, "no size"),
        ({"size: 0": "size: false"}, "no size"),
        ({"sha256: ": "sha256: x"}, "no SHA-256"),
    ],
)
def test_a_lie_is_refused(
    repo: tuple[Layout, list[str]], change: dict[str, str], message: str
) -> None:
    layout, _ = repo
    tip = _forge(layout, STATE_POINTER, change)
    with pytest.raises(MvcError, match=message) as caught:
        manifest.objects(layout, [tip])
    assert tip[:10] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "listing",
    [
        b"[" * 200_000,
        b'[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "../../x"}]',
        b'[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "/etc/x"}]',
        b'[{"md5": "../../../../etc/passwd", "relpath": "x"}]',
        json.dumps([{"md5": "0" * 32, "relpath": "x"}] * 2).encode(),
        b"{}",
        b"null",
    ],
)
def test_a_listing_that_is_none(repo: tuple[Layout, list[str]], listing: bytes) -> None:
    import hashlib

    layout, _ = repo
    md5 = hashlib.md5(listing).hexdigest() + ".dir"
    path = objects.object_path(objects.cache_folder(layout), md5)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(listing)
    text = f"outs:\n- md5: {md5}\n  size: 1\n  nfiles: 1\n  hash: md5\n  path: batch\n"
    tip = _forge(layout, BATCH_POINTER, f"{text}meta:\n  files: {{}}\n".encode())
    with pytest.raises(ObjectCorrupt):
        manifest.files(layout, [tip])


@pytest.mark.parametrize("text", [b"outs: " + b"[" * 20_000, b"x" * (17 << 20), b"\xff\xfe"])
def test_a_pointer_that_is_none(repo: tuple[Layout, list[str]], text: bytes) -> None:
    layout, _ = repo
    tip = _forge(layout, STATE_POINTER, text)
    with pytest.raises(MvcError, match=tip[:10]):
        manifest.listings(layout, [tip])


def test_two_commits_that_vouch_for_different_bytes_of_one_md5(
    repo: tuple[Layout, list[str]],
) -> None:
    layout, commits = repo
    held = {item.path: item.sha256 for item in manifest.files(layout, commits[-1:])}
    honest = held[f"{STATE}/adapter.safetensors"]
    assert honest
    tip = _forge(layout, STATE_POINTER, {honest: "f" * 64})
    both = [i for i in manifest.files(layout, [commits[-1], tip]) if i.sha256 in (honest, "f" * 64)]
    assert len(both) == 2
    assert len({i.md5 for i in both}) == 1
