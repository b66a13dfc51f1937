"""`mvc gc` where git itself is damaged, or remembers commits that no ref reaches any more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mvc.errors import StoreError
from mvc.ops import checkout, fsck, gc, ops, undo
from mvc.store import objects
from mvc.store.layout import STATE, Layout
from tests.ops import lines
from tests.ops.keeping import (
    assert_whole,
    cached,
    collect,
    commits,
    line_of,
    rules,
    states,
    templates,
)
from tests.ops.lines import content, dvc, git, state_of

__all__ = ["line_of", "templates"]
GONE = "1" * 40


def damage(at: Layout, name: str) -> None:
    """Overwrite a loose git object."""
    sha = git(at.root, "rev-parse", name)
    path = at.root / ".git" / "objects" / sha[:2] / sha[2:]
    path.chmod(0o644)
    path.write_bytes(b"not zlib")


def stray(at: Layout, seed: int = 99) -> str:
    """A state in the cache that no commit names; its list's md5."""
    folder = at.root / ".mvc" / f"stray-{seed}"
    lines.fill(folder, seed)
    made = objects.store_folder(at, folder, objects.hash_folder(folder), STATE, {})
    shutil.rmtree(folder)
    return made.md5


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_ref_that_git_cannot_read_is_told_and_stops_nothing(
    line_of: Callable[[int], Layout], tmp_path: Path, how: str
) -> None:
    at = line_of(5)
    by = commits(at)
    git(at.root, "branch", "side", by[2] or "")
    git(at.root, "switch", "-q", "side")
    lost = lines.commit(at, 20)
    git(at.root, "switch", "-q", "main")
    if how == "damaged":
        damage(at, lost)
    else:
        (at.root / ".git" / "refs" / "heads" / "side").write_text(f"{GONE}\n")
        loose = at.root / ".git" / "objects" / lost[:2] / lost[2:]
        loose.unlink()
    before, unknown = cached(at), stray(at)
    plan = collect(at, {"last": 1}).plan
    assert [(f.commit, f.path) for f in plan.findings] == [(by[2], "refs/heads/side")]
    assert "git fsck" in plan.findings[0].hint
    # its state is named by nothing that can be read, and what it began on may be its own
    assert {row.commit.batch for row in plan.rows} == {0, 4}
    assert unknown in cached(at)
    assert set(state_md5s(20, tmp_path)) <= cached(at) & before
    for number in (1, 2, 3, 5):
        assert_whole(at, number, tmp_path)


def state_md5s(seed: int, folder: Path) -> list[str]:
    state_of(seed, folder)
    return [each.md5 for each in objects.hash_folder(folder / f"expected-{seed}")]


def test_a_ref_of_a_remote_that_cannot_be_read_promises_nothing(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path, 4)
    (at.root / ".git" / "refs" / "remotes" / "origin" / "gone").write_text(f"{GONE}\n")
    plan = collect(at, {"last": 1}).plan
    assert [f.path for f in plan.findings] == ["refs/remotes/origin/gone"]
    assert not plan.num_objects and set(states(at).values()) == {"whole"}
    git(at.root, "update-ref", "-d", "refs/remotes/origin/gone")
    assert collect(at, {"last": 1}).plan.num_objects


def test_head_on_what_git_cannot_read_is_an_error(line_of: Callable[[int], Layout]) -> None:
    at = line_of(2)
    settings = rules(at, {"last": 1})
    (at.root / ".git" / "refs" / "heads" / "main").write_text(f"{GONE}\n")
    with pytest.raises(StoreError, match="refs/heads/main names, on which HEAD is"):
        gc.gc(at, settings=settings)


def test_a_damaged_tree_stops_nothing_and_hides_nobody_s_data(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(2)
    (at.root / "mine.csv").write_text("mine\n" * 40)
    dvc(at.root, "add", "-q", "mine.csv")
    git(at.root, "add", "mine.csv.dvc")
    git(at.root, "commit", "-qm", "data of my own")
    for seed in range(3, 6):
        lines.commit(at, seed)
    git(at.root, "rm", "-qf", "mine.csv.dvc")
    git(at.root, "commit", "-qm", "no more")
    lines.commit(at, 6)
    by = commits(at)
    damage(at, f"{by[4]}^{{tree}}")
    (mine,) = (
        each.md5 for each in objects.hash_folder(_folder_of(tmp_path / "own", "mine\n" * 40))
    )
    unknown = stray(at)
    plan = collect(at, {"last": 1}).plan
    assert {f.commit for f in plan.findings} == {by[4]}
    assert {row.commit.batch for row in plan.rows} >= {0, 1, 2}
    assert {mine, unknown} <= cached(at)
    for number in (3, 5, 6):
        assert states(at)[number] == "whole"


def _folder_of(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "mine.csv").write_text(text)
    return folder


def test_a_damaged_commit_is_named_with_its_ref(line_of: Callable[[int], Layout]) -> None:
    at = line_of(4)
    settings, by = rules(at, {"last": 1}), commits(at)
    git(at.root, "branch", "side", by[3] or "")
    damage(at, by[2] or "")
    before = cached(at)
    for apply in (False, True):
        with pytest.raises(StoreError) as caught:
            gc.gc(at, settings=settings, apply=apply)
        assert caught.value.message.startswith(f"git cannot read commit {(by[2] or '')[:10]}")
        assert "in the history of HEAD" in caught.value.message
        assert "git fsck" in caught.value.hint
    assert cached(at) == before


def test_what_a_reset_left_is_kept_while_the_trash_would_keep_it(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    lost, now = git(at.root, "rev-parse", "HEAD"), datetime.now(UTC)
    git(at.root, "reset", "-q", "--hard", "HEAD~2")
    plan = collect(at, {"last": 1}, now=now).plan
    kept = {k.commit.batch: k.reasons for k in plan.kept}
    assert kept == {4: ("reflog", "last"), 3: ("reflog",), 2: ("branch main", "HEAD", "last")}
    checkout.checkout(at, lost)
    assert content(at.state) == state_of(4, tmp_path)
    checkout.checkout(at, "main")
    later = now + timedelta(days=8)
    went = collect(at, {"last": 1}, now=later)
    assert went.plan.num_objects and went.plan.num_stray_bytes
    with pytest.raises(StoreError) as caught:
        checkout.checkout(at, lost)
    assert caught.value.hint == f"`mvc gc --restore {went.trash}` brings it back"
    gc.restore(at, went.trash)
    checkout.checkout(at, lost)
    assert content(at.state) == state_of(4, tmp_path)


def test_what_undo_goes_back_to_is_kept_though_no_ref_reaches_it(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(3)
    git(at.root, "switch", "-q", "-c", "side", "HEAD~1")
    tip = lines.commit(at, 30)
    checkout.checkout(at, tip)
    checkout.checkout(at, "main")
    moved = ops.ops(at)[0].operation
    git(at.root, "branch", "-D", "side")
    git(at.root, "reflog", "expire", "--expire=now", "--all")
    plan = collect(at, {"last": 10, "undo": 10}).plan
    assert not plan.num_objects
    undo.undo(at, moved.id)
    assert content(at.state) == state_of(30, tmp_path)
    assert not fsck.fsck(at).findings


def test_the_head_of_another_work_tree_is_kept(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    other = tmp_path / "other"
    git(at.root, "worktree", "add", "-q", "--detach", str(other), "HEAD~2")
    kept = {k.commit.batch: k.reasons for k in collect(at, {"last": 1}).plan.kept}
    assert kept == {4: ("branch main", "HEAD", "last"), 2: (f"HEAD of {other}",)}
    shutil.rmtree(other)
    git(at.root, "worktree", "prune")
    assert collect(at, {"last": 1}).plan.rows
