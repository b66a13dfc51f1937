"""`mvc status`: where the repo stands, told truly and without writing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mvc.errors import Interrupted, RepoError
from mvc.ops import checkout, status
from mvc.store.layout import Layout
from mvc.store.lock import Lock
from tests.ops.conftest import edit, git, train_one, write_batch


def test_after_a_batch_all_is_well(trained: Layout) -> None:
    told = status.status(trained)
    assert (told.root, told.branch, told.state) == (trained.root, "main", "clean")
    assert told.head.commit == git(trained, "rev-parse", "HEAD")
    assert told.head.batch == 3
    assert told.changed_files == ()
    assert told.run is None
    assert told.unpushed is None
    assert told.locked_by is None
    assert told.last_snapshot is None
    assert not told.config_changed


def test_it_writes_nothing(trained: Layout) -> None:
    def look() -> dict[str, int]:
        files = (p for p in trained.root.rglob("*") if p.is_file())
        return {str(p): p.stat().st_mtime_ns for p in files}

    before = look()
    status.status(trained)
    assert look() == before


def test_an_edited_state_is_modified(trained: Layout) -> None:
    path = trained.state / "adapter_config.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.swapcase())
    (trained.state / "notes.txt").write_text("mine")
    told = status.status(trained)
    assert told.state == "modified"
    assert set(told.changed_files) == {"adapter_config.json", "notes.txt"}


def test_a_copy_with_the_same_bytes_is_clean(trained: Layout) -> None:
    path = trained.state / "adapter_config.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert status.status(trained).state == "clean"


def test_an_edit_of_the_same_size_is_seen(trained: Layout) -> None:
    path = trained.state / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    told = status.status(trained)
    assert (told.state, told.changed_files) == ("modified", ("adapter_model.safetensors",))


def test_a_deleted_file_and_a_deleted_state_are_told_apart(trained: Layout) -> None:
    (trained.state / "optimizer.pt").unlink()
    told = status.status(trained)
    assert (told.state, told.changed_files) == ("modified", ("optimizer.pt",))
    for path in trained.state.iterdir():
        path.unlink()
    trained.state.rmdir()
    assert status.status(trained).state == "missing"


def test_a_detached_head_has_no_branch(trained: Layout) -> None:
    checkout.checkout(trained, "@1")
    told = status.status(trained)
    assert told.branch is None
    assert told.head.batch == 1


def test_an_edit_of_mvc_toml_is_told(trained: Layout) -> None:
    edit(trained, "train.learning_rate=0.5")
    assert status.status(trained).config_changed


def test_a_stopped_batch_is_told(trained: Layout, tmp_path: Path) -> None:
    path = write_batch(tmp_path / "new.jsonl", 60)
    with pytest.raises(Interrupted):
        train_one(trained, path, should_stop=lambda: True)
    run = status.status(trained).run
    assert run is not None
    assert (run.data_name, run.step, run.live) == ("new.jsonl", 1, False)
    assert run.parent == git(trained, "rev-parse", "HEAD")


def test_the_writer_is_named(trained: Layout) -> None:
    with Lock(trained, "mvc train new.jsonl"):
        told = status.status(trained)
        assert told.locked_by is not None
        assert "mvc train new.jsonl" in told.locked_by
    assert status.status(trained).locked_by is None


def test_what_is_unpushed_is_counted(trained: Layout, batches: list[Path], tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "remote.git"], check=True)
    git(trained, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(trained, "push", "--quiet", "--set-upstream", "origin", "main")
    assert status.status(trained).unpushed == 0
    train_one(trained, batches[0], again=True)
    assert status.status(trained).unpushed == 1


def test_a_repo_without_a_commit_is_an_error(trained: Layout, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "bare"], check=True)
    (tmp_path / "bare" / "mvc.toml").write_bytes(trained.config.read_bytes())
    with pytest.raises(RepoError, match="no commit yet") as caught:
        status.status(Layout(tmp_path / "bare"))
    assert "mvc init" in caught.value.hint
