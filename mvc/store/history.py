"""The line of commits: every reading walk over them, each of them one `git log`.

What a commit's message says is `messages`'. Refuses to create commits (`workspace`) or to
understand what a user calls one (`revisions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mvc.errors import RepoError, RevisionNotFound
from mvc.store import git
from mvc.store.layout import SNAPSHOT_PREFIX, day_of
from mvc.store.messages import parse_message
from mvc.types import Commit, Snapshot

_TAGS = "refs/tags/"
_HEADS = "refs/heads/"

_LOG = (
    "log",
    "-z",
    "--no-color",
    "--no-show-signature",
    "--encoding=UTF-8",
    "--decorate=full",
    "--decorate-refs=HEAD",
    f"--decorate-refs={_HEADS}",
    f"--decorate-refs=refs/tags/{SNAPSHOT_PREFIX}",
    "--format=%H%x00%P%x00%cI%x00%D%x00%B",
)
_FIELDS = 5
# `effective_line` mostly ends early; a year of batches every ten minutes is 52,000 commits.
_FIRST, _CHUNK = 16, 512


def log(
    root: Path, rev: str = "HEAD", limit: int | None = None, *, first_parent: bool = True
) -> list[Commit]:
    """The commits from `rev` back, newest first, by one `git log`.

    Args:
        root: The model repo.
        rev: What git resolves; a range is one too. Dates and `@N` are `revisions.resolve`'s.
        limit: How many at most.
        first_parent: Follow the line only, not what was merged into it.

    Raises:
        RevisionNotFound: `rev` names no commit, or there is none yet.
        RepoError: `root` is no git repository.
    """
    options = [*(["--first-parent"] if first_parent else [])]
    options += [f"--max-count={limit}"] if limit is not None else []
    return _log(root, rev, *options, "--end-of-options", rev, "--")


def every(root: Path) -> list[Commit]:
    """Every commit that HEAD, a branch or a tag reaches, newest first, by one `git log`."""
    return _log(root, "HEAD", "HEAD", "--branches", "--tags", "--remotes", "--")


def reachable(root: Path, tips: Sequence[str], without: Sequence[str] = ()) -> list[Commit]:
    """What `tips` (or `--all` refs) reach and `without` do not, newest first, by one `git log`."""
    return _log(root, "HEAD", *tips, *(("--not", *without) if without else ()), "--")


def commit(root: Path, rev: str = "HEAD") -> Commit:
    """The one commit that `rev` names.

    Raises:
        RevisionNotFound: `rev` names none.
    """
    return log(root, rev, limit=1)[0]


def commits(root: Path, hashes: Sequence[str]) -> list[Commit]:
    """These commits, in their order.

    Raises:
        RevisionNotFound: one of them is not in this repo.
    """
    found: list[Commit] = []
    for start in range(0, len(hashes), _CHUNK):
        some = hashes[start : start + _CHUNK]
        found += _log(root, some[0], "--no-walk=unsorted", *some, "--")
    return found


def effective_line(root: Path, rev: str = "HEAD") -> Iterator[Commit]:
    """The commits whose learning is in the state of `rev`, newest first.

    Walks first parents; from a rollback, which is itself yielded, it goes on at the commit whose
    state was brought back: what lies between is skipped.

    Raises:
        RevisionNotFound: `rev` names no commit, or a rollback's target is not in this repo.
    """
    seen: dict[str, Commit] = {}
    at: str | None = rev
    while at is not None:
        if at not in seen:
            found = log(root, at, limit=_CHUNK if seen else _FIRST)
            seen.update((each.commit, each) for each in found)
            at = found[0].commit
        here = seen[at]
        yield here
        at = here.rollback_to or next(iter(here.parents), None)


def find_batch(root: Path, md5: str, rev: str = "HEAD") -> Commit | None:
    """The newest batch in the state of `rev` whose data has this MD5, if there is one."""
    from mvc.store import batches

    found = batches.of_line(root, effective_line(root, rev)).get(md5)
    return None if found is None else commit(root, found)


def next_batch(root: Path, rev: str = "HEAD") -> int:
    """The number of the next batch: one above the highest on the first-parent line of `rev`.

    What a rollback skipped counts too, so that a number never repeats on a line.
    """
    # Numbers only grow along a line, so the newest batch has the highest one.
    limit, at = 1, rev
    while True:
        found = log(root, at, limit=limit)
        newest = next((each.batch for each in found if each.batch is not None), None)
        if newest is not None or len(found) < limit or not found[-1].parents:
            return 1 + (newest or 0)
        limit, at = _CHUNK, found[-1].parents[0]


def file_at(root: Path, commit: str, path: str) -> bytes | None:
    """The content of a tracked file at a commit (its hash), or None where it has no such file.

    Raises:
        RevisionNotFound: there is no such commit.
        StoreError: git cannot read the file.
    """
    try:
        return git.read_bytes(root, "cat-file", "blob", f"{commit}:{path}")
    except git.GitFailed as error:
        if git.try_read(root, "rev-parse", "--verify", f"{commit}^{{commit}}") is None:
            raise _not_found(commit) from error
        if "does not exist in" in error.stderr or "exists on disk, but not in" in error.stderr:
            return None
        raise


def snapshots(root: Path, day: str = "") -> list[Snapshot]:
    """The days that are pinned, newest day first; with `day` (YYYY-MM-DD) that one at most."""
    fields = ("refname", "taggerdate:iso-strict", "contents", "*objectname", "objectname")
    form = "%00".join(f"%({name})" for name in fields) + "%00"
    told = git.read(root, "for-each-ref", f"--format={form}", f"refs/tags/{SNAPSHOT_PREFIX}{day}")
    cells = told.split("\0")
    rows = [
        (found, *cells[start + 1 : start + len(fields)])
        for start in range(0, len(cells) - 1, len(fields))
        if (found := day_of(cells[start].lstrip("\n").removeprefix(_TAGS)))
    ]
    targets = [peeled or target for _, _, _, peeled, target in rows]
    if not rows:
        return []
    pinned = {each.commit: each for each in _log(root, "snapshots", "--no-walk", *targets, "--")}
    return [
        Snapshot(
            day=its_day,
            tag=SNAPSHOT_PREFIX + its_day,
            commit=pinned[target],
            time=datetime.fromisoformat(when) if when else pinned[target].time,
            message=message.strip(),
        )
        for (its_day, when, message, _, _), target in sorted(
            zip(rows, targets, strict=True), reverse=True
        )
        if target in pinned
    ]


def _log(root: Path, rev: str, *args: str) -> list[Commit]:
    try:
        cells = git.read_cells(root, *_LOG, *args)
        return [_read(*fields) for fields in zip(*[cells] * _FIELDS, strict=False)]
    except git.GitFailed as error:
        if "not a git repository" in error.stderr:
            raise RepoError(
                f"{root} is not a git repository", "make a model repo with `mvc init`"
            ) from error
        if "bad revision" in error.stderr or "bad object" in error.stderr:
            raise _not_found(rev) from error
        raise


def _not_found(rev: str) -> RevisionNotFound:
    if rev == "HEAD":
        return RevisionNotFound(
            "this branch has no commit yet", "make a model repo with `mvc init`"
        )
    return RevisionNotFound(
        f"no commit `{rev}` in this repo", "`mvc log` lists the commits, `mvc fetch` gets new ones"
    )


def _read(hash_: str, parents: str, when: str, refs: str, text: str) -> Commit:
    names = [ref.removeprefix("HEAD -> ").removeprefix("tag: ") for ref in refs.split(", ") if ref]
    gits: dict[str, Any] = {
        "commit": hash_,
        "parents": tuple(parents.split()),
        "time": _time(when),
        "branches": tuple(name.removeprefix(_HEADS) for name in names if name.startswith(_HEADS)),
        "snapshots": tuple(day for name in names if (day := day_of(name.removeprefix(_TAGS)))),
        "is_head": refs.startswith("HEAD"),
    }
    message = text.strip()
    try:
        return parse_message(gits, message)
    except ValueError:  # msgspec's too
        # Made by another hand: shown as any other commit is.
        return Commit(**gits, kind="other", batch=None, message=message)


def _time(told: str) -> datetime:
    try:
        return datetime.fromisoformat(told)
    except ValueError:
        # git stores any number as a date; one such commit must not hide the others.
        return datetime.fromtimestamp(0, UTC)
