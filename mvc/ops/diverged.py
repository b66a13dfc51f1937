"""Two machines trained from the same commit: the sentence, both histories, the ways out."""

from __future__ import annotations

from itertools import zip_longest

from mvc.errors import Diverged
from mvc.store import history, refs
from mvc.store.layout import Layout
from mvc.types import Commit

_MOST = 8
_WHAT, _WHO = 24, 14


def diverged(at: Layout, remote: str, branch: str, mine: str, theirs: str) -> Diverged:
    """The error for a branch that cannot just move forward, on either side.

    Args:
        at: The model repo.
        remote: The remote's name.
        branch: The branch on both sides.
        mine: Its commit here, in full.
        theirs: Its commit on the remote.
    """
    base = refs.common(at.root, mine, theirs)
    here, there = (_only(at, tip, other) for tip, other in ((mine, theirs), (theirs, mine)))
    if base is None:
        said = f"{branch} here and on {remote} have no commit in common: they are two model repos"
    else:
        said = (
            f"{branch} here and on {remote} both went on from the same commit, "
            f"{_name(history.commit(at.root, base))}, so neither can just move forward"
        )
    columns = [
        [f"here: {_count(here)}", *_lines(at, here)],
        [f"on {remote}: {_count(there)}", *_lines(at, there)],
    ]
    width = max(map(len, columns[0]))
    rows = (f"  {left:<{width}}    {right}" for left, right in zip_longest(*columns, fillvalue=""))
    return Diverged(
        "\n".join([said, *map(str.rstrip, rows)]),
        "nothing is lost either way. Take theirs and keep yours as a branch: "
        "`mvc pull --keep-as mine`. Or share yours beside theirs: `git switch -c mine`, "
        "then `mvc push`",
    )


def _only(at: Layout, tip: str, other: str) -> list[Commit]:
    return history.log(at.root, f"{other}..{tip}", first_parent=False)


def _count(commits: list[Commit]) -> str:
    return f"{len(commits)} commit{'' if len(commits) == 1 else 's'}"


def _lines(at: Layout, commits: list[Commit]) -> list[str]:
    """What, who and when, a line each, newest first."""
    shown = commits[:_MOST]
    who = refs.authors(at.root, [commit.commit for commit in shown])
    lines = [
        f"{_name(commit)} {_cut(_what(commit), _WHAT)}, "
        f"{_cut(who.get(commit.commit, '?'), _WHO)}, {commit.time:%Y-%m-%d %H:%M}"
        for commit in shown
    ]
    more = len(commits) - len(shown)
    return [*lines, f"and {more} more"] if more else lines


def _name(commit: Commit) -> str:
    number = f"@{commit.batch} " if commit.kind == "batch" else ""
    return f"{number}{commit.commit[:7]}"


def _what(commit: Commit) -> str:
    return commit.data.name if commit.data else commit.message.split("\n", 1)[0]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
