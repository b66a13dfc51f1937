"""What `mvc ops` and `mvc undo` say: operations, and what each of them moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from mvc.operations import Logged, UndoResult
from mvc.render import format as fmt
from mvc.render.document import commit as as_commit
from mvc.render.log import label
from mvc.render.marks import name
from mvc.types import Commit

_EXTRA = ("undoes", "trash", "deleted", "restored", "remote")
_SHORT = {"refs/heads/": "", "refs/tags/": "tag "}


def ops(found: Sequence[Logged], *, now: datetime) -> Iterator[Text]:
    """The log, one operation a line: its id, when, the command, what moved."""
    if not found:
        yield Text("No operations yet: they are written down from the next command on.")
    for each in found:
        done = each.operation
        line = Text.assemble(
            (done.id, "bold yellow"),
            (f"  {fmt.age(done.time, now):<11}", "dim"),
            f"  {fmt.plain(done.command) or '?'}",
        )
        told = list(_moves(each))
        if undone := done.extra.get("undoes"):
            told.append(f"takes back {undone}")
        if remotes := done.extra.get("deleted"):
            told.append(f"deleted on {fmt.plain(remotes)}")
        yield line.append(f"  {', '.join(told)}" if told else "", "dim")


def undone(result: UndoResult) -> Iterator[Text]:
    """What was taken back, and where that leads."""
    told = f"{result.undone.id}: {fmt.plain(result.undone.command) or '?'}"
    yield Text.assemble(("Took back ", "bold green"), told)
    for move in _moves(result.made):
        yield Text(f"  {move}")
    if result.num_restored:
        back = fmt.count(result.num_restored, "object")
        yield Text(f"  {back} came back from the trash", "dim")
        for remote, count in result.lacks.items():
            yield Text(
                f"  {fmt.plain(remote)} still lacks the states of {fmt.count(count, 'commit')}: "
                f"`mvc push --all {fmt.plain(remote)}` sends them"
            )
        return
    where = f"on {fmt.plain(result.branch)}" if result.branch else "on no branch"
    changed = fmt.count(result.num_files_changed, "file")
    yield Text.assemble(
        (f"  {changed} of current_model/ changed, at ", "dim"),
        label(result.commit),
        (f" {where}", "dim"),
    )
    yield Text("  `mvc undo` brings it again", "dim")


def document(each: Logged) -> dict[str, Any]:
    """An operation as `mvc ops --json` lists it."""
    done = each.operation
    return {
        "id": done.id,
        "time": done.time.isoformat(),
        "command": done.command,
        "user": done.user,
        "pid": done.pid,
        "refs": {ref: _pair(move) for ref, move in done.refs.items()},
        "head": _pair(done.head),
        "commit": _pair(done.commit),
        **{key: done.extra.get(key) for key in _EXTRA},
    }


def undo_document(result: UndoResult) -> dict[str, Any]:
    """What `mvc undo --json` answers."""
    return {
        "undone": result.undone.id,
        "operation": document(result.made),
        "commit": as_commit(result.commit),
        "branch": result.branch,
        "files_changed": result.num_files_changed,
        "objects_restored": result.num_restored,
        "remotes_lack": result.lacks,
    }


def _pair(move: tuple[str | None, str | None]) -> dict[str, str | None]:
    return {"before": move[0], "after": move[1]}


def _moves(each: Logged) -> Iterator[str]:
    """What moved, in words: refs, then HEAD where it went to another place."""
    done = each.operation
    for ref, (before, after) in done.refs.items():
        short = next(
            (fmt.plain(s + ref.removeprefix(p)) for p, s in _SHORT.items() if ref.startswith(p)),
            fmt.plain(ref),
        )
        if before and after:
            yield f"{short} {_called(before, each.commits)} → {_called(after, each.commits)}"
        else:
            sign, sha = ("+", after) if after else ("-", before)
            yield f"{sign}{short} at {_called(sha or '', each.commits)}"
    before, after = done.head
    if before != after and before and after:
        yield f"HEAD {_place(before, each.commits)} → {_place(after, each.commits)}"


def _place(named: str, commits: Mapping[str, Commit]) -> str:
    """What HEAD names: a branch, or a commit."""
    if named.startswith("refs/heads/"):
        return fmt.plain(named.removeprefix("refs/heads/"))
    return _called(named, commits)


def _called(sha: str, commits: Mapping[str, Commit]) -> str:
    found = commits.get(sha)
    return name(found) if found else sha[:10]
