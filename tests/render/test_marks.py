"""What the log must say in words, and what it must not."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from mvc.render.marks import before, jump, marks, rolled_back
from mvc.types import Commit, Loss, Rate
from tests.render import samples as s

find = s.BY_HASH.get


def test_a_jump_is_told_with_its_batch() -> None:
    assert marks(s.THREE, find) == ("loss jumped: starts at 2.909, @2 ended at 2.113 (+0.796)",)


def test_a_batch_after_a_rollback_is_compared_to_what_was_brought_back() -> None:
    assert before(s.FOUR, find) == s.TWO
    assert jump(s.FOUR, find) is None
    higher = replace(s.FOUR, loss=Loss(2.62, 2.0, 2.2), curve=())  # close to @3, far above @2
    assert "@2 ended at 2.113" in (jump(higher, find) or "")


def test_a_commit_of_another_hand_is_looked_through() -> None:
    edit = replace(s.INIT, commit="e" * 40, kind="other", batch=None, parents=(s.TWO.commit,))
    after = replace(s.THREE, parents=(edit.commit,))
    assert before(after, {**s.BY_HASH, edit.commit: edit}.get) == s.TWO


@pytest.mark.parametrize(
    ("last", "first", "told"),
    [
        (2.0, 2.29, False),  # under 15%
        (2.0, 2.31, True),
        (0.2, 0.29, False),  # under 0.1
        (0.2, 0.31, True),
        (2.0, 1.0, False),
        (2.0, math.nan, True),
    ],
)
def test_what_is_a_jump(last: float, first: float, told: bool) -> None:
    parent = replace(s.TWO, loss=Loss(3.0, last, 2.5), curve=())
    child = replace(s.THREE, loss=Loss(first, 1.0, 1.0), curve=())
    assert (jump(child, {parent.commit: parent}.get) is not None) is told


def test_one_step_of_hard_rows_is_no_jump() -> None:
    """The first step's loss alone is 3.0, but an eighth of the curve is compared."""
    parent = replace(s.TWO, loss=Loss(2.1, 2.0, 2.0), curve=(2.0,) * 32)
    child = replace(s.THREE, loss=Loss(3.0, 2.0, 2.0), curve=(3.0, *[2.0] * 31))
    assert jump(child, {parent.commit: parent}.get) is None
    lost = replace(child, curve=(*[3.0] * 8, *[2.0] * 24))
    assert jump(lost, {parent.commit: parent}.get) is not None


def test_zero_steps_and_zero_rates_are_told() -> None:
    assert "zero steps" in marks(s.EMPTY, find)[0]
    assert "learning rate was 0" in marks(s.DEAD, find)[0]
    ended = replace(s.TWO, learning_rate=Rate(2e-4, 0.0))
    assert "ended at 0" in marks(ended, find)[0]


def test_a_good_batch_and_an_unknown_parent_are_quiet() -> None:
    assert marks(s.TWO, find) == ()
    assert marks(s.THREE, lambda sha: None) == ()


def line(*steps: str) -> list[Commit]:
    """Commits newest first; `b>a` is a rollback to `a`, `b<a` a child of `a`, else of the last."""
    made: list[Commit] = []
    for step in steps:
        own = step[0]
        parent = step[2] if "<" in step else made[-1].commit if made else ""
        target = step[2] if ">" in step else None
        kind = "rollback" if target else "batch"
        changes = {"commit": own, "parents": (parent,) if parent else (), "kind": kind}
        made.append(s.batch(1, 2.0, 1.0, **changes, rollback_to=target))
    return made[::-1]


@pytest.mark.parametrize(
    ("steps", "gone"),
    [
        ("a b c", ""),
        ("a b c r>b d", "c"),
        ("a b c r>a", "bc"),
        ("a b c r>a d t>c e", "rd"),  # c is live once more
        ("a b r>a c t>a d", "brc"),
        ("a b c r>c", ""),
        ("a b r>a c t>r d", "bc"),  # back to a rollback, which stands for its own target
        ("b c r>a d", "bc"),  # a limit hides a
        ("a", ""),
        ("", ""),
    ],
)
def test_what_a_rollback_skips_is_rolled_back(steps: str, gone: str) -> None:
    assert rolled_back(line(*steps.split())) == set(gone)


def test_a_rollback_may_lead_through_another_line() -> None:
    commits = line(*["a", "b", "c", "r>y", "d"])
    other = line(*["a", "x<a", "y"])
    assert rolled_back(commits, other) == set("bc")
    assert rolled_back(commits) == set("abc")  # nothing else can be known


def test_a_circle_ends() -> None:
    assert rolled_back(line("a>b", "b")) == set()
