"""`mvc gc`: what goes, what never goes, and that all that stays is honest."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mvc.errors import ConfigError, ObjectMissing, RepoError, StoreError
from mvc.ops import checkout, fsck, gc, pin, push, rollback, snapshot, status
from mvc.store import collected, objects, pointers, trash
from mvc.store.layout import Layout
from tests.ops import lines
from tests.ops.keeping import (
    NOW,
    assert_whole,
    cached,
    collect,
    commits,
    commits_of_main,
    line_of,
    pointers_of,
    rules,
    states,
    templates,
)
from tests.ops.lines import content, dvc, git, shared_line, state_of

__all__ = ["line_of", "templates"]
LAST_TWO = {"last": 2}


def test_without_a_rule_nothing_goes(line_of: Callable[[int], Layout], tmp_path: Path) -> None:
    at = line_of(3)
    before = cached(at)
    result = gc.gc(at, apply=True, unpushed=True)
    assert not result.plan.policy and not result.plan.rows and result.trash is None
    assert cached(at) == before


def test_the_plan_alone_changes_nothing_and_says_all(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(5)
    before = cached(at)
    plan = gc.gc(at, settings=rules(at, LAST_TWO, last=4), now=NOW).plan
    assert [(r.commit.batch, r.before, r.after) for r in plan.rows] == [
        (3, "whole", "thin"),
        (2, "whole", "thin"),
        (1, "whole", "absent"),
        (0, "whole", "absent"),
    ]
    assert plan.num_bytes == sum(row.num_bytes for row in plan.rows) > 4 * lines.ADAPTER
    assert [(k.commit.batch, k.state, k.reasons) for k in plan.kept] == [
        (5, "whole", ("branch main", "HEAD", "last")),
        (4, "whole", ("last",)),
        (3, "thin", ("thin last",)),
        (2, "thin", ("thin last",)),
    ]
    assert cached(at) == before and not at.trash.exists() and states(at)[0] == "whole"


def test_what_went_is_marked_and_what_stayed_is_whole(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(5)
    result = collect(at, LAST_TWO, thin={"last": 4})
    assert states(at) == {5: "whole", 4: "whole", 3: "thin", 2: "thin", 1: "absent", 0: "absent"}
    assert not fsck.fsck(at).findings
    assert fsck.fsck(at).num_given_up > 0
    assert_whole(at, 5, tmp_path)
    assert_whole(at, 4, tmp_path)
    again = collect(at, LAST_TWO, thin={"last": 4})
    assert not again.plan.rows and again.trash is None and result.trash is not None
    assert "up to date" in dvc(at.root, "status")
    assert dvc(at.root, "checkout", "-q") == ""
    git(at.root, "checkout", "-q", "HEAD~1")
    dvc(at.root, "checkout", "-q")
    assert content(at.state) == state_of(4, tmp_path)


def test_a_damaged_object_of_a_kept_part_is_still_found(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    collect(at, {"last": 1}, thin={"last": 3})
    thin = commits(at)[2]
    (pointer, _) = pointers_of(at, thin)
    listed = {path: md5 for path, md5, _ in pointers.entries(at, pointer)}
    lost = pointers.object_path(objects.cache_folder(at), listed["adapter_model.safetensors"])
    lost.unlink()
    assert [(f.commit, f.problem) for f in fsck.fsck(at).findings] == [(thin, "missing")]


def test_checkout_of_a_thinned_commit_gives_the_adapter_and_says_so(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    pin.pin(at, "@1", now=NOW)
    collect(at, {"last": 1}, thin={"last": 3})
    heard: list[str] = []

    class Ear(lines_silent()):  # type: ignore[misc]
        def note(self, text: str) -> None:
            heard.append(text)

    checkout.checkout(at, "@2", progress=Ear())
    expected = state_of(2, tmp_path)
    moments = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert content(at.state) == {k: v for k, v in expected.items() if k not in moments}
    assert status.status(at).state == "thin"
    assert "moments are gone" in heard[-1] and commits_of_main(at)[1][:10] in heard[-1]
    checkout.checkout(at, "main")
    assert content(at.state) == state_of(4, tmp_path)
    with pytest.raises(ObjectMissing, match="moments are gone"):
        rollback.rollback(at, "@2", now=NOW)


def lines_silent() -> type:
    from mvc.types import Silent

    return Silent


def test_checkout_of_a_taken_commit_names_the_nearest_whole_one(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    pin.pin(at, "@1", now=NOW)
    collect(at, {"last": 1})
    with pytest.raises(ObjectMissing, match="gave up the state") as caught:
        checkout.checkout(at, "@3")
    assert commits(at)[1][:10] in caught.value.hint
    assert content(at.state) == state_of(4, tmp_path)


def test_never_what_a_ref_names(line_of: Callable[[int], Layout], tmp_path: Path) -> None:
    at = line_of(7)
    line = commits(at)
    git(at.root, "branch", "side", line[1])
    git(at.root, "tag", "v1", line[2])
    git(at.root, "tag", "-a", "-m", "x", "w1", line[3])
    pin.pin(at, line[4] or "", "shipped", now=NOW)
    checkout.checkout(at, line[5])
    snapshot.snapshot(at, now=NOW)
    checkout.checkout(at, "main")
    keep = {"last": 1, "tags": ["v*"], "snapshots": False}
    plan = collect(at, keep).plan
    assert {k.commit.batch: (k.state, k.reasons) for k in plan.kept} == {
        7: ("whole", ("branch main", "HEAD", "last")),
        5: ("thin", (f"snapshot {NOW:%Y-%m-%d}",)),
        4: ("whole", ("pinned",)),
        3: ("thin", ("tag w1",)),
        2: ("whole", ("tag v1",)),
        1: ("whole", ("branch side",)),
    }
    for number in (1, 2, 4, 7):
        assert_whole(at, number, tmp_path)


def test_a_detached_head_and_a_batch_in_progress_are_kept(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    line = commits(at)
    at.run.mkdir(parents=True, exist_ok=True)
    (at.run / "run.json").write_text(json.dumps({"parent": line[1], "name": "x"}))
    checkout.checkout(at, line[2] or "")
    plan = collect(at, {"last": 1}).plan
    kept = {k.commit.batch: k.reasons for k in plan.kept}
    assert kept == {4: ("branch main", "last"), 2: ("HEAD",), 1: ("batch in progress",)}


def test_what_no_remote_has_stays_unless_asked_by_name(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 2)
    for seed in (3, 4, 5):
        lines.commit(at, seed)
    collect(at, {"last": 1})
    assert states(at) == {
        5: "whole", 4: "whole", 3: "whole", None: "whole", 2: "whole", 1: "absent", 0: "absent",
    }  # fmt: skip
    collect(at, {"last": 1}, unpushed=True)
    assert states(at)[4] == states(at)[3] == "absent"
    push.push(at)  # the history goes, and with it the word that two states are gone
    other = lines.cloned(tmp_path, "b")
    assert states(other)[4] == "absent" and states(other)[5] == "whole"
    with pytest.raises(ObjectMissing, match="gave up"):
        checkout.checkout(other, commits(other)[4])


def test_what_was_taken_here_comes_back_from_the_remote(tmp_path: Path) -> None:
    at = shared_line(tmp_path, 4)
    collect(at, {"last": 1})
    assert states(at)[2] == "absent"
    line = commits(at)
    checkout.checkout(at, "@2")
    assert content(at.state) == state_of(2, tmp_path)
    assert collected.read(at).get(line[2] or "") is None


def test_the_trash_brings_everything_back(line_of: Callable[[int], Layout], tmp_path: Path) -> None:
    at = line_of(4)
    before = cached(at)
    result = collect(at, {"last": 1})
    assert len(cached(at)) < len(before)
    assert gc.restore(at).trash == result.trash
    assert cached(at) == before and set(states(at).values()) == {"whole"}
    for number in range(5):
        assert_whole(at, number, tmp_path)
    with pytest.raises(RepoError, match="empty"):
        gc.restore(at)


def test_the_trash_rests_as_long_as_the_rules_say(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    keep = {"last": 3, "trash": 7}
    first = collect(at, keep).trash
    later = {"last": 1, "trash": 7}
    second = collect(at, later, now=NOW + timedelta(days=6)).trash
    assert [each.id for each in trash.listing(at)] == [first, second]
    plan = gc.gc(at, settings=rules(at, later), now=NOW + timedelta(days=8)).plan
    assert plan.expired == (first,) and plan.num_expired_bytes > 0
    collect(at, later, now=NOW + timedelta(days=8))
    assert [each.id for each in trash.listing(at)] == [second]
    with pytest.raises(StoreError, match="emptied"):
        gc.restore(at, first)
    collect(at, later, now=NOW + timedelta(days=8), empty_trash=True)
    assert not trash.listing(at) and not list(at.trash.rglob("*"))


def test_a_shared_object_stays_while_anybody_kept_names_it(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(4)
    rollback.rollback(at, "@1", now=NOW)
    plan = collect(at, {"last": 1}).plan
    assert 1 not in {row.commit.batch for row in plan.rows}  # HEAD has its state
    assert_whole(at, 1, tmp_path)


def test_what_was_rolled_back_is_a_line_of_its_own(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(5)
    rollback.rollback(at, "@2", now=NOW)
    plan = gc.gc(at, settings=rules(at, {"last": 2}), now=NOW).plan
    kept = {k.commit.batch: k.reasons for k in plan.kept if "last" in k.reasons}
    assert set(kept) == {None, 2, 5, 4}


def test_a_rule_that_is_none_is_an_error(line_of: Callable[[int], Layout], tmp_path: Path) -> None:
    at = line_of(1)
    with pytest.raises(ConfigError, match="no duration"):
        gc.gc(at, settings=rules(at, {"within": "3 days"}), now=NOW)


def test_times_of_the_trash_have_their_zone(
    line_of: Callable[[int], Layout], tmp_path: Path
) -> None:
    at = line_of(3)
    collect(at, {"last": 1})
    (only,) = trash.listing(at)
    assert only.time == NOW and isinstance(only.time, datetime) and only.num_objects > 0
