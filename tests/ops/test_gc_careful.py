"""`mvc gc` among strays, other people's data, damaged commits and refs that move."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvc.ops import fsck, gc, log, rollback
from mvc.store import objects, pointers, trash
from mvc.store.layout import STATE, Layout
from mvc.store.lock import Lock
from tests.ops import lines
from tests.ops.keeping import (
    NOW,
    assert_whole,
    cached,
    collect,
    commits,
    line_of,
    pointers_of,
    rules,
    states,
    templates,
)
from tests.ops.lines import dvc, git

__all__ = ["line_of", "templates"]


def test_strays_go_and_what_others_track_stays(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(3)
    for name in ("mine", "old"):
        (at.root / f"{name}.csv").write_text(f"{name}\n" * 40)
        dvc(at.root, "add", "-q", f"{name}.csv")
    git(at.root, "add", "old.csv.dvc")
    git(at.root, "commit", "-qm", "data of my own")
    git(at.root, "rm", "-qf", "old.csv.dvc")
    git(at.root, "commit", "-qm", "no more")
    theirs = {md5 for md5 in cached(at) if b"\n" * 1 in b"\n" and _text(at, md5) in ("mine", "old")}
    assert len(theirs) == 2
    left = tmp_path / "stray"
    lines.fill(left, 99)
    stray = objects.store_folder(at, left, objects.hash_folder(left), STATE, {})
    assert stray.md5 in cached(at)
    plan = collect(at, {"last": 10}).plan
    assert plan.num_stray_bytes > 3 * lines.ADAPTER and not plan.rows
    assert theirs <= cached(at) and stray.md5 not in cached(at)


def _text(at: Layout, md5: str) -> str:
    data = pointers.object_path(objects.cache_folder(at), md5).read_bytes()
    return data[:20].decode(errors="replace").split("\n")[0]


@pytest.mark.parametrize("damage", ["listing", "lost listing", "pointer"])
def test_a_broken_commit_is_told_and_stops_nothing(
    line_of: Callable[[int], Layout], tmp_path: Path, damage: str
) -> None:
    at = line_of(5)
    line = commits(at)
    rollback.rollback(at, "@2", now=NOW)
    rolled = log.log(at)[0].commit
    lines.commit(at, 6)
    lines.commit(at, 7)
    path = pointers.object_path(objects.cache_folder(at), pointers_of(at, line[2] or "")[0].md5)
    if damage == "pointer":
        blob = git(at.root, "rev-parse", f"{line[3]}:current_model.dvc")
        loose = at.root / ".git" / "objects" / blob[:2] / blob[2:]
        loose.chmod(0o644)
        loose.write_bytes(b"not zlib")
    else:
        path.chmod(0o644)
        path.write_text("[]") if damage == "listing" else path.unlink()
    stray = tmp_path / "stray"
    lines.fill(stray, 99)
    kept_stray = objects.store_folder(at, stray, objects.hash_folder(stray), STATE, {}).md5
    result = collect(at, {"last": 1})
    told = {f.commit for f in result.plan.findings}
    assert told == ({line[3]} if damage == "pointer" else {line[2], rolled})
    assert {r.commit.batch for r in result.plan.rows} >= (
        {6, 1, 0} if damage == "pointer" else {4, 0}
    )
    assert kept_stray in cached(at)
    kept = {k.commit.commit for k in result.plan.kept if "beside a damaged commit" in k.reasons}
    assert kept >= ({line[2], line[3], line[4]} if damage == "pointer" else {line[2], rolled})


def test_refs_that_move_meanwhile_are_seen(
    line_of: Callable[[int], Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pin, a branch and a commit that come between the plan and the deleting."""
    from mvc.ops import collect as carrying

    at = line_of(6)
    line = commits(at)
    monkeypatch.setattr(carrying, "_HERE", 3)
    monkeypatch.setattr(trash, "take", _between(trash.take, [
        lambda: None,
        lambda: git(at.root, "branch", "side", line[2] or ""),
        lambda: lines.commit(at, 7),
        lambda: git(at.root, "tag", "v9", line[4] or ""),
    ]))  # fmt: skip
    result = collect(at, {"last": 1})
    assert result.applied and states(at)[1] == "absent"
    for number in (2, 4, 6, 7):
        if number != 6:
            assert_whole(at, number, tmp_path)
    assert not fsck.fsck(at).findings


def _between(take: Callable[..., int], acts: list[Callable[[], object]]) -> Callable[..., int]:
    todo = iter(acts)

    def wrapped(*args: Any) -> int:
        done = take(*args)
        next(todo, lambda: None)()
        return done

    return wrapped


def test_beside_a_writer_neither_waits_long(line_of: Callable[[int], Layout]) -> None:
    """Commits come under the lock, as a daemon makes them, while gc after gc takes the oldest."""
    at, fork = line_of(3), multiprocessing.get_context("fork")
    waits = fork.SimpleQueue()

    def write() -> None:
        for seed in range(10, 25):
            begun = time.monotonic()
            with Lock(at, "mvc watch", 60):
                waits.put(time.monotonic() - begun)
                lines.commit(at, seed)
            time.sleep(0.5)  # a batch is trained without the lock

    writer = fork.Process(target=write)
    writer.start()
    taken, took = 0, []
    while writer.is_alive():
        begun = time.monotonic()
        taken += len(collect(at, {"last": 2, "undo": 0}).plan.rows)
        took.append(time.monotonic() - begun)
    writer.join()
    assert writer.exitcode == 0 and taken
    # Generous, for a busy machine: a gc here takes a second, and holds the lock for parts of it.
    assert max(waits.get() for _ in range(15)) < 10, "the writer waited for gc"
    assert len(took) >= 3 and max(took) < 30, "gc waited for the writer"
    collect(at, {"last": 2})
    assert list(states(at).values()) == ["whole"] * 2 + ["absent"] * 17
    assert not fsck.fsck(at).findings
    assert not gc.gc(at, settings=rules(at, {"last": 2}), now=NOW).plan.num_stray_bytes
