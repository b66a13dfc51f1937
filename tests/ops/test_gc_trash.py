"""What `mvc gc` must not lose or hide after the fact: trash that is needed again, and damage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mvc.errors import RepoError
from mvc.ops import checkout, fsck, gc, ops, pin, status, undo
from mvc.render.ops import document
from mvc.store import collected, objects, pointers, trash
from mvc.store.layout import Layout
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
from tests.ops.lines import content, git, state_of

__all__ = ["line_of", "templates"]

LATER = NOW + timedelta(days=30)


def test_what_is_pinned_or_named_since_comes_back_and_the_rest_is_emptied(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(6)
    collect(at, {"last": 1})
    by = commits(at)
    made = pin.pin(at, by[2], now=NOW)  # its own gc comes weeks later
    assert made.here == "whole"
    git(at.root, "branch", "keepme", by[3])
    git(at.root, "tag", "v1", by[4])
    plan = gc.gc(at, settings=rules(at, {"last": 1, "tags": ["v*"]}), now=LATER).plan
    assert plan.num_back and plan.expired
    assert {k.commit.batch for k in plan.kept if k.here != k.state} == {3, 4}
    done = collect(at, {"last": 1, "tags": ["v*"]}, now=LATER).plan
    assert done.num_back == plan.num_back and done.num_back_bytes > 4 * lines.ADAPTER
    assert not trash.listing(at)
    assert {n for n, state in states(at).items() if state == "whole"} == {2, 3, 4, 6}
    for number in (2, 3, 4):
        assert_whole(at, number, tmp_path)
    assert not fsck.fsck(at).findings


def test_emptying_by_hand_leaves_what_is_kept_by_now(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    collect(at, {"last": 1})
    git(at.root, "branch", "keepme", commits(at)[2])
    collect(at, {"last": 1}, empty_trash=True)
    assert not trash.listing(at)
    assert_whole(at, 2, tmp_path)


def test_without_a_policy_no_trash_is_emptied(line_of: Callable[[int], Layout]) -> None:
    at = line_of(4)
    collect(at, {"last": 1})
    before = [each.id for each in trash.listing(at)]
    assert not collect(at, now=LATER).plan.expired
    assert [each.id for each in trash.listing(at)] == before != []


def adapter_of(at: Layout, commit: str) -> str:
    (found,) = (p for p in pointers_of(at, commit) if p.path == "current_model")
    return next(m for path, m, _ in pointers.entries(at, found) if path.startswith("adapter_model"))


def lose(at: Layout, md5: str) -> None:
    pointers.object_path(objects.cache_folder(at), md5).unlink()


def test_damage_stays_damage(line_of: Callable[[int], Layout]) -> None:
    at = line_of(5)
    collect(at, {"last": 1}, thin={"last": 3})
    commit = commits(at)[4]
    assert collected.read(at)[commit] == "thin"
    lose(at, adapter_of(at, commit))
    problems = [each.path for each in fsck.fsck(at).findings]
    assert problems == ["current_model/adapter_model.safetensors"]
    collect(at, {"last": 1}, thin={"last": 3})
    assert collected.read(at)[commit] == "thin"
    assert [each.path for each in fsck.fsck(at).findings] == problems


def test_a_lost_list_makes_no_adapter_a_stray(line_of: Callable[[int], Layout]) -> None:
    at = line_of(5)
    collect(at, {"last": 1}, thin={"last": 3})
    commit = commits(at)[4]
    adapter = adapter_of(at, commit)
    (listing,) = (p.md5 for p in pointers_of(at, commit) if p.path == "current_model")
    lose(at, listing)
    plan = collect(at, {"last": 1}, thin={"last": 3}).plan
    assert plan.findings and not plan.num_objects
    assert adapter in cached(at)
    assert fsck.fsck(at).findings


def test_a_plain_push_of_commits_alone_promises_no_objects(
    tmp_path: Path,
) -> None:
    at = lines.shared_line(tmp_path, 2)
    for seed in (3, 4, 5):
        lines.commit(at, seed)
    git(at.root, "push", "-q", "origin", "main")  # and no `dvc push`
    before = cached(at)
    told = gc.gc(at, settings=rules(at, {"last": 1}), now=NOW).plan
    plan = collect(at, {"last": 1}).plan
    assert (told.rows, told.num_objects) == (plan.rows, plan.num_objects), "it promised no more"
    assert {row.commit.batch for row in plan.rows} - {None} == {0, 1, 2}
    assert {k.commit.batch for k in plan.kept if "not pushed" in k.reasons} >= {3, 4}
    gone = tmp_path / "store"
    gone.rename(tmp_path / "elsewhere")
    for seed in (3, 4):
        assert_whole(at, seed, tmp_path)
    assert len(before - cached(at)) == plan.num_objects


def test_what_a_remote_gave_up_is_not_on_it(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path, 4)
    other = lines.cloned(tmp_path, "b", all_states=True)
    collect(at, {"last": 1}, remotes=["origin"])
    git(other.root, "fetch", "-q", "origin", "+refs/mvc/gc/*:refs/mvc/origin/gc/*")
    before = cached(other)
    assert not collect(other, {"last": 1}).plan.rows
    assert cached(other) == before
    assert collect(other, {"last": 1}, unpushed=True).plan.rows


def test_a_thin_checkout_is_no_damage(line_of: Callable[[int], Layout], tmp_path: Path) -> None:
    at = line_of(4)
    collect(at, {"last": 1}, thin={"last": 3})
    checkout.checkout(at, "@3")
    assert status.status(at).state == "thin"
    found = fsck.fsck(at)
    assert not found.findings and found.num_given_up and not found.num_absent
    (at.state / "adapter_model.safetensors").unlink()
    assert [each.path for each in fsck.fsck(at).findings] == [
        "current_model/adapter_model.safetensors"
    ]


def test_a_clone_of_a_thinned_commit_is_no_damage(tmp_path: Path) -> None:
    at = lines.shared_line(tmp_path, 4)
    collect(at, {"last": 1}, thin={"last": 3}, remotes=["origin"])
    other = lines.cloned(tmp_path, "b")
    checkout.checkout(other, "@3")
    assert status.status(other).state == "thin"
    assert not fsck.fsck(other).findings


def test_a_gc_in_two_trashes_undone_in_part_is_no_damage(
    line_of: Callable[[int], Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = line_of(6)
    monkeypatch.setattr("mvc.ops.collect._HERE", 12)
    real, calls = trash.take, []

    def take(*args: object) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mvc.ops.collect.trash.take", take)
        collect(at, {"last": 1})
    collect(at, {"last": 1})
    assert len(trash.listing(at)) == 2
    undo.undo(at)
    assert not fsck.fsck(at).findings
    gc.restore(at)
    assert not fsck.fsck(at).findings and not collected.read(at)
    assert [each.operation.extra.get("restored") for each in ops.ops(at)[:2]].count(None) == 0
    newest = ops.ops(at)[0]
    assert document(newest)["restored"] == newest.operation.extra["restored"]
    with pytest.raises(RepoError, match="brought back") as caught:
        undo.undo(at)
    assert "mvc undo " in caught.value.hint


def test_a_cache_that_others_may_use_is_left_alone(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    there = tmp_path / "cache"
    subprocess.run(["cp", "-a", at.root / ".dvc" / "cache", there], check=True)
    lines.dvc(at.root, "cache", "dir", "-q", "--local", str(there))
    with pytest.raises(RepoError, match="outside") as caught:
        collect(at, {"last": 1})
    assert "--own-cache" in caught.value.hint
    assert collect(at, {"last": 1}, own_cache=True).plan.num_objects
    assert content(at.state) == state_of(4, tmp_path)


@pytest.mark.parametrize("how", ["emptied", "expired", "restored"])
def test_undo_goes_round_a_gc_whose_trash_is_gone(
    line_of: Callable[[int], Layout], how: str
) -> None:
    at = line_of(4)
    made = ops.ops(at)[0].operation
    collect(at, {"last": 1})
    gone = ops.ops(at)[0].operation
    if how == "restored":
        gc.restore(at)
    else:
        again = {"empty_trash": True} if how == "emptied" else {"now": LATER}
        collect(at, {"last": 1}, **again)
        assert ops.ops(at)[0].operation == gone
    with pytest.raises(RepoError, match=r"its trash .* was emptied, or brought back") as caught:
        undo.undo(at, gone.id)
    assert caught.value.hint.startswith(f"`mvc undo {made.id}` takes back what came before it")


def test_a_pin_says_what_is_there_and_asked_again_brings_what_the_trash_has(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    by = commits(at)
    collect(at, {"last": 1}, thin={"last": 2})
    git(at.root, "tag", "pin/by-hand", by[2] or "")
    git(at.root, "tag", "pin/thin", by[3] or "")
    assert [each.here for each in pin.pins(at)] == ["thin", "absent"]
    assert pin.pin(at, by[2] or "", now=NOW).here == "whole"
    assert_whole(at, 2, tmp_path)
    collect(at, {"last": 1}, empty_trash=True)
    gone = by[0] or ""
    assert pin.pin(at, gone, now=NOW).here == pin.pin(at, gone, now=NOW).here == "absent"
    assert [each.here for each in pin.pins(at)] == ["whole", "whole", "absent"]
