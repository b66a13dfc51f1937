"""What a reader of the history must not miss, said in words. Judges commits, prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mvc.types import Commit

Lookup = Callable[[str], Commit | None]
"""Finds a commit by its full hash; None where it is not to be had."""

# A batch of other text starts a little higher; beyond both of these something was lost, such as
# an optimizer that began anew.
JUMP_RELATIVE = 0.15
JUMP_ABSOLUTE = 0.1


def name(commit: Commit) -> str:
    """What a person calls a commit: `@42`, `init`, or its short hash."""
    if commit.kind == "batch" and commit.batch is not None:
        return f"@{commit.batch}"
    return "init" if commit.kind == "init" else commit.short


def brought_back(rollback: Commit, lookup: Lookup) -> str:
    """What a person calls the commit whose state `rollback` brought back."""
    target = lookup(rollback.rollback_to) if rollback.rollback_to else None
    return name(target) if target else (rollback.rollback_to or "an unknown commit")[:10]


def rolled_back(commits: Sequence[Commit], elsewhere: Iterable[Commit] = ()) -> frozenset[str]:
    """The hashes of those commits whose learning the newest one's state lacks.

    Walks first parents, and from a rollback on at the commit that it brought back: what lies
    between is rolled back, earlier rollbacks included. A commit that is not to be had ends the
    walk: it is taken to be older than all of `commits`.

    Args:
        commits: One line, newest first, perhaps not down to its start.
        elsewhere: Commits of other lines, through which a rollback may lead.
    """
    known = {commit.commit: commit for commit in (*elsewhere, *commits)}
    live: set[str] = set()
    here = commits[0] if commits else None
    while here is not None and here.commit not in live:
        live.add(here.commit)
        here = known.get(here.rollback_to or next(iter(here.parents), ""))
    return frozenset(commit.commit for commit in commits if commit.commit not in live)


def before(commit: Commit, lookup: Lookup) -> Commit | None:
    """The batch whose state `commit` went on from, or None at the line's start.

    A rollback stands for the commit that it brought back; a commit that mvc did not make (an
    edited mvc.toml) for its own parent.
    """
    here = lookup(commit.parents[0]) if commit.parents else None
    seen: set[str] = set()
    while here is not None and here.kind in ("rollback", "other") and here.commit not in seen:
        seen.add(here.commit)
        target = here.rollback_to or (here.parents[0] if here.parents else "")
        here = lookup(target) if target else None
    return here


def jump(commit: Commit, lookup: Lookup) -> str | None:
    """The words for a loss that starts well above where the last one ended; None without one."""
    if commit.kind != "batch" or commit.loss is None:
        return None
    last = before(commit, lookup)
    if last is None or last.loss is None:
        return None
    start, end = _mean(commit, first=True), _mean(last, first=False)
    rise = start - end
    # A loss that is not a number fails both comparisons and so is told too.
    if rise <= JUMP_ABSOLUTE or rise <= JUMP_RELATIVE * abs(end):
        return None
    return f"loss jumped: starts at {start:.3f}, {name(last)} ended at {end:.3f} ({rise:+.3f})"


def _mean(commit: Commit, *, first: bool) -> float:
    """A batch's loss at its start or its end: the mean of an eighth of its curve.

    One step's loss is mostly the luck of its rows: with 4 rows a step, neighbours differ by 20%.
    """
    assert commit.loss is not None
    curve = commit.curve or (commit.loss.first, commit.loss.last)
    width = max(len(curve) // 8, 1)
    return sum(curve[:width] if first else curve[-width:]) / width


def marks(commit: Commit, lookup: Lookup) -> tuple[str, ...]:
    """All that must not be in `commit`, apart from its own recorded warnings."""
    found: list[str] = []
    if commit.kind == "batch":
        if commit.steps == 0:
            found.append("zero steps: this batch trained nothing")
        rates = commit.learning_rate
        if rates is not None and rates.first == 0 and rates.last == 0:
            found.append("the learning rate was 0: this batch learned nothing")
        elif rates is not None and rates.last == 0:
            found.append("the learning rate ended at 0: the next batch may learn nothing")
        jumped = jump(commit, lookup)
        if jumped:
            found.append(jumped)
    return tuple(found)
