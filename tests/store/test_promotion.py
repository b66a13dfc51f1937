"""Both or neither: promotion and checkout, undisturbed and killed at any moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from mvc.errors import DiskFull, StoreError
from mvc.store import git as run_git
from mvc.store import journal, objects, promote, tracked, workspace
from mvc.store.layout import Layout
from tests.killing import count_events, run_and_kill, spread
from tests.store.conftest import (
    START,
    assert_clean,
    batch_commit,
    content,
    dvc,
    git,
    state_of,
    train,
)


def test_a_line_is_clean_for_plain_tools(line: Layout, tmp_path: Path) -> None:
    assert_clean(line)
    assert content(line.state) == state_of(2, tmp_path)
    assert git(line.root, "log", "--format=%s") == "batch 2\nbatch 1\nbatch 0\n"
    assert git(line.root, "log", "-1", "--format=%an %aI").startswith("Ada 2026-11-20T05:00:00")
    sizes = {git(line.root, "ls-tree", "-r", "--name-only", rev) for rev in ("HEAD", "HEAD~1")}
    assert len(sizes) == 1
    git(line.root, "checkout", "-q", "HEAD~1")
    dvc(line.root, "checkout")
    assert content(line.state) == state_of(1, tmp_path)


def test_time_zone_of_a_commit(line: Layout) -> None:
    from zoneinfo import ZoneInfo

    new = batch_commit(line, 3)
    when = (START + timedelta(days=1)).astimezone(ZoneInfo("Asia/Kolkata"))
    workspace.promote(line, replace(new, when=when))
    assert git(line.root, "log", "-1", "--format=%aI %cI").split() == [when.isoformat()] * 2


def test_staged_and_edited_files_of_the_user_survive(line: Layout) -> None:
    (line.root / "notes.txt").write_text("staged")
    git(line.root, "add", "notes.txt")
    line.config.write_text("# my edit\n")
    train(line, 3)
    assert git(line.root, "status", "--porcelain") == " M mvc.toml\nA  notes.txt\n"
    assert line.config.read_text() == "# my edit\n"
    assert "notes.txt" not in git(line.root, "ls-tree", "-r", "--name-only", "HEAD")


def test_edit_of_mvc_toml_during_training_is_kept(line: Layout) -> None:
    new = batch_commit(line, 3)
    line.config.write_text("# later edit\n")
    workspace.promote(line, replace(new, files=new.files | {"mvc.toml": b"# at the start\n"}))
    assert line.config.read_text() == "# later edit\n"
    assert git(line.root, "show", "HEAD:mvc.toml") == "# at the start\n"
    assert git(line.root, "status", "--porcelain") == " M mvc.toml\n"


def test_a_file_of_the_user_in_the_state_folder_is_moved_not_lost(line: Layout) -> None:
    (line.state / "mine.txt").write_text("mine")
    train(line, 3)
    assert not (line.state / "mine.txt").exists()
    assert (line.private / "lost" / "current_model" / "mine.txt").read_text() == "mine"


def test_detached_head_starts_a_branch(line: Layout, tmp_path: Path) -> None:
    first = git(line.root, "rev-parse", "HEAD~1").strip()
    workspace.checkout(line, first, None)
    assert workspace.head(line.root) == (None, first)
    commit = train(line, 7)
    assert workspace.head(line.root) == ("from-7", commit)
    assert git(line.root, "rev-parse", "from-7~1").strip() == first
    assert content(line.state) == state_of(7, tmp_path)
    assert_clean(line)


def test_a_moved_branch_is_refused(line: Layout) -> None:
    new = batch_commit(line, 3)
    git(line.root, "commit", "-q", "--allow-empty", "-m", "by hand")
    before = git(line.root, "rev-parse", "HEAD")
    with pytest.raises(StoreError, match="moved"):
        workspace.promote(line, new)
    assert git(line.root, "rev-parse", "HEAD") == before
    assert journal.read(line) is None


def test_a_branch_that_moves_at_the_last_moment_is_refused(
    line: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = batch_commit(line, 3)
    write = journal.write

    def intrude(layout: Layout, record: journal.Journal) -> None:
        git(line.root, "commit", "-q", "--allow-empty", "-m", "by hand")
        write(layout, record)

    monkeypatch.setattr(journal, "write", intrude)
    with pytest.raises(StoreError, match="moved"):
        workspace.promote(line, new)
    assert journal.read(line) is None
    assert git(line.root, "log", "-1", "--format=%s") == "by hand\n"


def test_settle_is_idempotent(line: Layout) -> None:
    here = git(line.root, "rev-parse", "HEAD", "HEAD~1").split()
    record = journal.Journal(
        op="promote", was=here[1], old=here[1], new=here[0], ref="refs/heads/main",
        head="refs/heads/main", pid=os.getpid(),
    )  # fmt: skip
    inodes = {p: p.stat().st_ino for p in line.root.rglob("*") if ".git" not in p.parts}
    assert promote.settle(line, record) == 0
    assert promote.settle(line, record) == 0
    assert {p: p.stat().st_ino for p in line.root.rglob("*") if ".git" not in p.parts} == inodes


def test_full_disk_leaves_the_old_state(line: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    new = batch_commit(line, 3)
    before = git(line.root, "rev-parse", "HEAD"), content(line.state)

    def full(*_: object, **__: object) -> str:
        raise run_git.GitFailed(["write-tree"], 128, "fatal: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_git, "write", full)
        with pytest.raises(DiskFull, match="old state is whole"):
            workspace.promote(line, new)
    assert (git(line.root, "rev-parse", "HEAD"), content(line.state)) == before
    assert workspace.recover(line) is None
    workspace.promote(line, new)
    shutil.rmtree(line.run, ignore_errors=True)
    assert_clean(line)


# --- killed -------------------------------------------------------------------------------------


def _copy(line: Layout, to: Path) -> Layout:
    """The repo at another place, hard links between cache and workspace kept."""
    shutil.rmtree(to, ignore_errors=True)
    assert os.system(f"cp -a '{line.root}' '{to}'") == 0
    return Layout(to)


def _kill_everywhere(
    line: Layout,
    scratch: Path,
    act: Callable[[Layout], object],
    check: Callable[[Layout], None],
) -> None:
    """Kill `act` at 30 spread moments; `check` sees the repo after recovery."""
    # The first run at a place makes DVC's folders for it elsewhere, which the later ones find, and
    # what this process remembers (`check` runs in it), its children remember.
    repo = Layout(scratch)
    _copy(line, scratch)
    act(repo)
    _copy(line, scratch)
    events = count_events(partial(act, repo))
    assert events > 20
    for nth in spread(events, 30):
        _copy(line, scratch)
        killed = run_and_kill(lambda: act(repo), nth)
        # An empty file that DVC remembers by its times and inode takes five moments less.
        assert killed or nth >= events - 6
        workspace.recover(repo)
        check(repo)


@pytest.mark.slow
def test_promotion_killed_at_any_moment(line: Layout, tmp_path: Path) -> None:
    old = git(line.root, "rev-parse", "HEAD").strip()
    seen = set()

    def check(repo: Layout) -> None:
        _, here = workspace.head(repo.root)
        new = here != old
        seen.add(new)
        assert content(repo.state) == state_of(3 if new else 2, tmp_path)
        assert content(repo.batch)["data.jsonl"] == f'{{"text": "{3 if new else 2}"}}\n'.encode()
        assert git(repo.root, "status", "--porcelain") == ""
        assert objects.changed(repo, tracked.pointers_of(repo.root, here or "")[0]) == ()
        if not new:
            train(repo, 3)
        assert content(repo.state) == state_of(3, tmp_path)
        assert git(repo.root, "log", "--format=%s") == "batch 3\nbatch 2\nbatch 1\nbatch 0\n"
        assert objects.changed(repo, tracked.pointers_of(repo.root, "HEAD")[0]) == ()
        assert workspace.recover(repo) is None
        for path in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
            assert not (repo.root / ".git" / path).exists()

    _kill_everywhere(line, tmp_path / "scratch", lambda repo: train(repo, 3), check)
    assert seen == {False, True}
    last = Layout(tmp_path / "scratch")
    assert_clean(last)


@pytest.mark.slow
def test_checkout_killed_at_any_moment(line: Layout, tmp_path: Path) -> None:
    start = git(line.root, "rev-parse", "HEAD~2").strip()
    seen = set()

    def check(repo: Layout) -> None:
        branch, here = workspace.head(repo.root)
        moved = here == start
        seen.add(moved)
        assert (branch is None) == moved
        assert content(repo.state) == state_of(0 if moved else 2, tmp_path)
        assert repo.batch.exists() != moved
        assert git(repo.root, "status", "--porcelain") == ""
        assert objects.changed(repo, tracked.pointers_of(repo.root, here or "")[0]) == ()
        workspace.checkout(repo, start, None)
        assert content(repo.state) == state_of(0, tmp_path)
        assert workspace.recover(repo) is None

    _kill_everywhere(
        line, tmp_path / "scratch", lambda repo: workspace.checkout(repo, start, None), check
    )
    assert seen == {False, True}
    assert_clean(Layout(tmp_path / "scratch"))


def test_recover_leaves_a_head_that_the_user_moved(line: Layout, tmp_path: Path) -> None:
    commits = git(line.root, "rev-parse", "HEAD", "HEAD~1").split()
    journal.write(
        line,
        journal.Journal(
            op="promote", was=commits[1], old=commits[1], new="f" * 40, ref="refs/heads/main",
            head="refs/heads/main", pid=2**22 - 1,
        ),
    )  # fmt: skip
    (line.state / "adapter.safetensors").unlink()
    (line.state / "config.json").unlink()
    (line.state / "config.json").write_text("my edit")
    said = workspace.recover(line)
    assert said is not None and "moved" in said
    assert (line.state / "config.json").read_text() == "my edit"
    expected = state_of(2, tmp_path)["adapter.safetensors"]
    assert (line.state / "adapter.safetensors").read_bytes() == expected


def test_stale_locks_of_a_dead_process_are_removed(line: Layout) -> None:
    here = git(line.root, "rev-parse", "HEAD").strip()
    lock = line.root / ".git" / "index.lock"
    lock.touch()
    assert workspace.recover(line) is None
    assert lock.exists()  # nobody of ours left it
    record = journal.Journal(
        op="promote", was=here, old=here, new="e" * 40, ref="refs/heads/main",
        head="refs/heads/main", pid=2**22 - 1,
    )  # fmt: skip
    journal.write(line, record)
    assert "dropped" in (workspace.recover(line) or "")
    assert not lock.exists()


def test_a_damaged_journal_is_an_error(line: Layout) -> None:
    line.private.mkdir(exist_ok=True)
    line.journal.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        workspace.recover(line)
