"""The cache: what DVC itself would have written, links out of it, and hostile input."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvc.errors import ObjectCorrupt, ObjectMissing, StoreError
from mvc.store import known, objects, user
from mvc.store.layout import Layout
from mvc.types import Pointer
from tests.store.conftest import content, dvc, fill, git, make

ZERO = "0" * 32
NO_HASHING = """
import sys
import dvc_data.hashfile.hash as h, dvc_data.hashfile.build as b
def no(*a, **k): raise SystemExit("hashed " + str(a[0]))
real = h.hash_file
def only_memory(path, fs, *a, **k):
    return real(path, fs, *a, **k) if fs.protocol == "memory" else no(path)
b.hash_file = h.hash_file = only_memory
from dvc.cli import main
sys.exit(main(["status"]))
"""


def store(layout: Layout, seed: int, name: str = "current_model", **options: bool) -> Pointer:
    source = layout.private / f"source-{seed}"
    fill(source, seed)
    files = objects.hash_folder(source)
    return objects.store_folder(layout, source, files, name, {}, **options)


def write(layout: Layout, pointer: Pointer) -> None:
    (layout.root / f"{pointer.path}.dvc").write_bytes(objects.format_pointer(pointer))


def test_hashes_of_a_file(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "x").write_bytes(data)
    found = objects.hash_file(tmp_path / "x", "y/x")
    assert (found.path, found.size_bytes) == ("y/x", len(data))
    assert found.md5 == hashlib.md5(data).hexdigest()
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_pointer_and_objects_are_those_of_dvc_add(empty: Layout, tmp_path: Path) -> None:
    pointer = store(empty, 1)
    mine = objects.format_pointer(pointer)
    listing = objects.object_path(objects.cache_folder(empty), pointer.md5)
    bytes_of_listing, mode = listing.read_bytes(), listing.stat().st_mode & 0o777
    before = content(objects.cache_folder(empty))
    fill(empty.state, 1)
    dvc(empty.root, "add", "-q", "current_model")
    assert (empty.root / "current_model.dvc").read_bytes() == mine
    assert listing.read_bytes() == bytes_of_listing
    assert mode == 0o444
    assert content(objects.cache_folder(empty)) == before


def test_pointer_round_trip_and_meta(empty: Layout) -> None:
    pointer = Pointer("batch", "0" * 32 + ".dir", 12, 1, {"name": "día.jsonl", "rows": 3})
    text = objects.format_pointer(pointer)
    read = objects.parse_pointer(text, "batch.dvc")
    assert read == pointer
    assert objects.parse_pointer(text, "batch.dvc of a commit") is read, "parsed once more"
    assert text.endswith("meta:\n  name: día.jsonl\n  rows: 3\n".encode())


@pytest.mark.parametrize(
    "text",
    [
        "outs: []",
        f"outs:\n- {{md5: {ZERO}, path: a}}\n- {{md5: {ZERO}, path: b}}",
        f"outs:\n- {{md5: {ZERO}, path: /etc}}",
        f"outs:\n- {{md5: {ZERO}, path: ../x}}",
        f"outs:\n- {{md5: {ZERO}, path: .git}}",
        "outs:\n- {md5: ../../../../etc/passwd, path: a}",
        f"outs:\n- {{md5: {ZERO}, path: a, size: many}}",
        "outs: [",
        "!!python/object/apply:os.system [id]",
        "",
        "- 1",
    ],
)
def test_hostile_pointers_are_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"x\.dvc") as caught:
        objects.parse_pointer(text, "x.dvc")
    assert "git checkout" in caught.value.hint


@pytest.mark.parametrize(
    "listing",
    [
        b"{}x",
        b"[1]",
        b'{"relpath": 1}',
        json.dumps([{"relpath": "../x", "md5": "0" * 32}]).encode(),
        json.dumps([{"relpath": "/x", "md5": "0" * 32}]).encode(),
        json.dumps([{"relpath": "a//x", "md5": "0" * 32}]).encode(),
        json.dumps([{"relpath": "x", "md5": "../../x"}]).encode(),
    ],
)
def test_hostile_listings_are_refused(empty: Layout, listing: bytes) -> None:
    pointer = Pointer("current_model", "a" * 32 + ".dir", 1, 1)
    path = objects.object_path(objects.cache_folder(empty), pointer.md5)
    path.parent.mkdir(parents=True)
    path.write_bytes(listing)
    with pytest.raises(ObjectCorrupt):
        objects.link(empty, pointer)
    assert not empty.state.exists()


def test_storing_moves_and_keeping_copies(empty: Layout) -> None:
    pointer = store(empty, 2)
    source = empty.private / "source-2"
    assert content(source) == {}
    fill(empty.private / "kept", 2)
    (empty.private / "kept" / "sub" / "optimizer.pt").write_bytes(b"new")
    files = objects.hash_folder(empty.private / "kept")
    kept = objects.store_folder(empty, empty.private / "kept", files, "batch", {}, keep_source=True)
    mine = empty.private / "kept" / "sub" / "optimizer.pt"
    assert mine.stat().st_nlink == 1
    assert mine.stat().st_mode & 0o200
    mine.write_bytes(b"mine again")
    cached = {path: md5 for path, md5, _ in objects.entries(empty, kept)}["sub/optimizer.pt"]
    assert objects.verify_object(empty, cached) is None
    assert objects.missing(empty, pointer) == objects.missing(empty, kept) == ()


def test_storing_twice_and_over_a_torn_object(empty: Layout) -> None:
    pointer = store(empty, 2)
    path, md5, _ = objects.entries(empty, pointer)[0]
    cached = objects.object_path(objects.cache_folder(empty), md5)
    cached.chmod(0o644)
    cached.write_bytes(b"torn")
    assert "is 4 bytes, should hash to" in (objects.verify_object(empty, md5) or "")
    import shutil

    shutil.rmtree(empty.private / "source-2")
    assert store(empty, 2) == pointer
    assert objects.verify_object(empty, md5) is None
    assert objects.verify_object(empty, pointer.md5) is None
    cached.unlink()
    assert objects.verify_object(empty, md5) == "missing"
    assert objects.missing(empty, pointer) == (path,)
    with pytest.raises(ObjectMissing, match=path):
        objects.link(empty, pointer)


def test_a_file_that_changed_after_hashing_is_refused(empty: Layout) -> None:
    source = empty.private / "s"
    fill(source, 1)
    files = objects.hash_folder(source)
    (source / "adapter.safetensors").write_bytes(b"\0" * 3000)
    with pytest.raises(StoreError, match="changed"):
        objects.store_folder(empty, source, files, "batch", {}, keep_source=True)
    assert not list(objects.cache_folder(empty).rglob("*.tmp"))


@pytest.mark.parametrize("links", ["reflink,hardlink,symlink,copy", "symlink", "copy"])
def test_link_tells_dvc_and_touches_only_what_differs(empty: Layout, links: str) -> None:
    dvc(empty.root, "config", "cache.type", links)
    first, second = store(empty, 1), store(empty, 3)
    write(empty, first)
    assert objects.link(empty, first) == 5
    assert objects.link(empty, first) == 0
    config = (empty.state / "config.json").lstat()
    assert objects.link(empty, second) == 4  # two changed, one left, one came
    assert (empty.state / "config.json").lstat() == config
    assert objects.unsaved(empty, "current_model") == ()
    write(empty, second)
    done = subprocess.run(
        [sys.executable, "-c", NO_HASHING], cwd=empty.root, capture_output=True, text=True
    )
    assert "up to date" in done.stdout, done.stdout + done.stderr
    assert objects.changed(empty, second) == ()
    assert objects.looks_clean(empty, second) in (True, None)
    assert set(objects.changed(empty, first)) >= {"odd_1", "odd_3", "adapter.safetensors"}
    assert objects.looks_clean(empty, first) is False
    for path in content(empty.state):
        assert not (empty.state / path).stat().st_mode & 0o222


def test_no_hashing_test_can_fail(empty: Layout) -> None:
    write(empty, store(empty, 1))
    fill(empty.state, 1)
    done = subprocess.run(
        [sys.executable, "-c", NO_HASHING], cwd=empty.root, capture_output=True, text=True
    )
    assert "hashed" in done.stdout + done.stderr


def test_changes_are_seen_and_kept(empty: Layout) -> None:
    first, second = store(empty, 1), store(empty, 3)
    objects.link(empty, first)
    (empty.state / "config.json").unlink()
    (empty.state / "config.json").write_text("[]\n")
    (empty.state / "sub" / "optimizer.pt").unlink()
    (empty.state / "more").write_text("more")
    assert objects.changed(empty, first) == ("config.json", "more", "sub/optimizer.pt")
    assert objects.unsaved(empty, "current_model") == ("config.json", "more")
    objects.link(empty, second)
    lost = content(empty.private / "lost" / "current_model")
    assert lost == {"config.json": b"[]\n", "more": b"more"}
    assert objects.changed(empty, second) == ()


def test_folders_and_files_change_places(empty: Layout) -> None:
    def stored(folder: Path, name: str) -> Pointer:
        return objects.store_folder(empty, folder, objects.hash_folder(folder), name, {})

    one, two = empty.private / "1", empty.private / "2"
    (one / "a").mkdir(parents=True)
    (one / "a" / "b").write_text("b")
    two.mkdir()
    (two / "a").write_text("a")
    first, second = stored(one, "current_model"), stored(two, "current_model")
    for pointer in (first, second, first):
        objects.link(empty, pointer)
        assert objects.changed(empty, pointer) == ()
    assert objects.unlink(empty, "current_model") == 1
    assert not empty.state.exists()


def test_an_external_cache_is_honoured(
    empty: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    dvc(empty.root, "cache", "dir", "--local", str(tmp_path / "elsewhere"))
    pointer = store(empty, 1)
    assert objects.cache_folder(empty) == tmp_path / "elsewhere" / "files" / "md5"
    objects.link(empty, pointer)
    write(empty, pointer)
    assert "up to date" in dvc(empty.root, "status")
    assert not (empty.root / ".dvc" / "cache" / "files").exists()
    dvc(empty.root, "cache", "dir", "--unset", "--local")
    dvc(empty.root, "cache", "dir", "../sub dir")
    with pytest.raises(StoreError, match="outside this repo"):
        objects.cache_folder(empty)
    user.path().parent.mkdir(parents=True)
    user.path().write_text(f'[repo."{empty.root}"]\ndvc_config = true\n')
    assert objects.cache_folder(empty) == tmp_path / "sub dir" / "files" / "md5"


def test_reading_needs_no_dvc(empty: Layout) -> None:
    pointer = store(empty, 1)
    objects.link(empty, pointer)
    write(empty, pointer)
    code = (
        "import sys; from pathlib import Path\n"
        "from mvc.store import objects; from mvc.store.layout import Layout\n"
        "at = Layout(Path.cwd())\n"
        "p = objects.parse_pointer(Path('current_model.dvc').read_bytes(), 'x')\n"
        "assert objects.looks_clean(at, p) and not objects.missing(at, p)\n"
        "assert not {'dvc', 'dvc_data', 'git', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=empty.root, check=True)


def test_init_is_quiet_and_configured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    assert "reflink,hardlink,symlink,copy" in dvc(made.root, "config", "cache.type")
    assert dvc(made.root, "config", "core.analytics").strip() == "false"
    staged = git(made.root, "diff", "--cached", "--name-only").split()
    assert set(staged) == set(objects.INIT_FILES)
    with pytest.raises(StoreError, match="cannot be set up"):
        objects.init(made)


def test_the_database_of_hashes_is_dvc_s_own(
    empty: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another place DVC would read each file again; other links it would replace."""
    from dvc.repo import Repo

    def agree() -> None:
        repo = Repo(str(empty.root))
        assert str(known.folder(empty)) == repo.site_cache_dir
        assert known.links(empty) == list(repo.cache.local.cache_types)
        repo.close()

    agree()
    dvc(empty.root, "config", "--local", "core.site_cache_dir", str(empty.root.parent / "site"))
    dvc(empty.root, "config", "--local", "cache.type", "hardlink,copy")
    agree()
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    agree()
    dvc(empty.root, "config", "--local", "--unset", "core.site_cache_dir")
    assert known._site_cache() == "/var/tmp/dvc"


def test_large_files_of_a_folder_are_hashed_as_small_ones_are(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom((9 << 20) * (number > 0) + number))
    found = objects.hash_folder(tmp_path)
    assert found == tuple(objects.hash_file(tmp_path / f"{n}.bin", f"{n}.bin") for n in range(3))
    for each in found:
        data = (tmp_path / each.path).read_bytes()
        assert (each.md5, each.size_bytes) == (hashlib.md5(data).hexdigest(), len(data))
        assert each.sha256 == hashlib.sha256(data).hexdigest()
