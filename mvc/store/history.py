"""The line of commits: what a commit's message says, written and read back.

Owns the message format (subject, the user's words, trailers) and every reading walk over commits,
each of them one `git log`. Refuses to create commits (`workspace`) or to understand what a user
calls one (`revisions`).

    Batch 12: day-03.jsonl, loss 2.31 -> 2.10

    what the user said with --message

    Kind: batch
    Batch: 12
    ...

Only the last paragraph holds trailers, so the user's words above cannot pass for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from mvc.errors import RepoError, RevisionNotFound
from mvc.store import git
from mvc.store.layout import SNAPSHOT_PREFIX, day_of
from mvc.types import Commit, Data, Gate, Kind, Loss, Rate, Snapshot
from mvc.version import VERSION

CURVE_POINTS = 32

_FORGED = re.compile(
    r"(kind|batch|data|data-md5|rows|tokens|steps|lifetime-step|loss-\w+|rate-\w+|seconds|"
    r"rollback-to|gate|warning|mvc-version)\s*:",
    re.IGNORECASE,
)
# What would break a line, steer a terminal, or not survive UTF-8; the backslash begins an escape.
_UNSAFE = re.compile(
    "[\\\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|^ | $"
)
_TAGS = "refs/tags/"
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_HEADS = "refs/heads/"
_KINDS = frozenset(get_args(Kind))

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


# --- writing ------------------------------------------------------------------------------------


def start_subject(base: str, r: int) -> str:
    """The subject of a line's first commit: `Start: smollm2-135m, LoRA r=16`."""
    return f"Start: {_escape(base)}, LoRA r={r}"


def batch_subject(commit: Commit) -> str:
    """The subject of a batch: `Batch 12: day-03.jsonl, loss 2.31 -> 2.10`."""
    name = f": {_escape(commit.data.name)}" if commit.data else ""
    loss = f", loss {commit.loss.first:.2f} -> {commit.loss.last:.2f}" if commit.loss else ""
    return f"Batch {commit.batch}{name}{loss}"


def rollback_subject(target: Commit) -> str:
    """The subject of a rollback to `target`: `Roll back to @2 (abc1234567)`."""
    number = 0 if target.kind == "init" else target.batch
    return f"Roll back to {target.short if number is None else f'@{number} ({target.short})'}"


def format_message(commit: Commit, body: str | None = None) -> str:
    """The whole commit message: subject, body, trailers; `log` reads it back.

    Numbers are written so that they read back exactly, but for the curve: it is thinned to 32
    points of 4 significant digits, the means of equal stretches.

    Args:
        commit: What to say. Hash, parents, time, branches and snapshots are git's and ignored.
            The first line of `message` is the subject, the rest the body; an empty `message` is
            a batch's usual subject.
        body: The user's own words, instead of those in `commit.message`. Lines that look like a
            trailer are indented.
    """
    subject, _, rest = commit.message.partition("\n")
    words = _body(rest if body is None else body)
    pairs: list[tuple[str, object]] = [("Kind", commit.kind), ("Batch", commit.batch)]
    if commit.data:
        pairs += [
            ("Data", _escape(commit.data.name)),
            ("Data-MD5", commit.data.md5),
            ("Rows", commit.data.rows),
            ("Tokens", commit.data.tokens),
        ]
    pairs += [("Steps", commit.steps), ("Lifetime-Step", commit.lifetime_step)]
    if loss := commit.loss:
        pairs += [("Loss-First", loss.first), ("Loss-Last", loss.last), ("Loss-Mean", loss.mean)]
    if commit.curve:
        pairs.append(("Loss-Curve", " ".join(f"{loss:.4g}" for loss in _thin(commit.curve))))
    if rate := commit.learning_rate:
        pairs += [("Rate-First", rate.first), ("Rate-Last", rate.last)]
    if gate := commit.gate:
        pairs.append(("Gate", f"{gate.metric} {gate.value} {gate.md5}"))
    pairs += [("Seconds", commit.seconds), ("Rollback-To", commit.rollback_to)]
    pairs += [("Warning", _escape(warning)) for warning in commit.warnings]
    pairs.append(("Mvc-Version", VERSION))
    trailers = "\n".join(f"{key}: {value}" for key, value in pairs if value is not None)
    # str(float) is its shortest exact form, as repr is.
    head = _visible(subject.strip()) or batch_subject(commit)
    return "\n\n".join(part for part in (head, words, trailers) if part) + "\n"


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _unescape(text: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def _visible(text: str) -> str:
    """Control characters as escapes; unlike `_escape` it may be applied twice."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\\ " else _escape(found[0]), text)


def _body(text: str) -> str:
    """The user's words: lines kept, control characters visible, no line that forges a trailer."""
    lines = [_visible(line.replace("\t", "    ").rstrip()) for line in text.splitlines()]
    return "\n".join(f"    {line}" if _FORGED.match(line) else line for line in lines).strip("\n")


def _thin(curve: Sequence[float]) -> list[float]:
    """At most 32 points: the means of stretches that differ by one point in length at most."""
    count = min(CURVE_POINTS, len(curve))
    edges = [index * len(curve) // count for index in range(count + 1)]
    return [sum(curve[start:end]) / (end - start) for start, end in pairwise(edges)]


# --- reading ------------------------------------------------------------------------------------


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
        told = git.read_bytes(root, *_LOG, *args)
    except git.GitFailed as error:
        if "not a git repository" in error.stderr:
            raise RepoError(
                f"{root} is not a git repository", "make a model repo with `mvc init`"
            ) from error
        if "bad revision" in error.stderr or "bad object" in error.stderr:
            raise _not_found(rev) from error
        raise
    cells = told.decode(errors="replace").split("\0")
    return [_read(*cells[start : start + _FIELDS]) for start in range(0, len(cells) - 1, _FIELDS)]


def _not_found(rev: str) -> RevisionNotFound:
    if rev == "HEAD":
        return RevisionNotFound(
            "this branch has no commit yet", "make a model repo with `mvc init`"
        )
    return RevisionNotFound(
        f"no commit `{rev}` in this repo", "`mvc log` lists the commits, `mvc fetch` gets new ones"
    )


def _read(hash_: str, parents: str, when: str, refs: str, text: str) -> Commit:
    names = [ref.removeprefix("HEAD -> ").removeprefix("tag: ") for ref in refs.split(", ")]
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
        return _with_trailers(gits, message)
    except (ValueError, KeyError):
        # Made by another hand: shown as any other commit is.
        return Commit(**gits, kind="other", batch=None, message=message)


def _time(told: str) -> datetime:
    try:
        return datetime.fromisoformat(told)
    except ValueError:
        # git stores any number as a date; one such commit must not hide the others.
        return datetime.fromtimestamp(0, UTC)


def _with_trailers(gits: dict[str, Any], text: str) -> Commit:
    message, _, tail = text.rpartition("\n\n")
    pairs = [line.partition(": ") for line in tail.split("\n")]
    said = {key: value for key, _, value in pairs}
    if not message or said["Kind"] not in _KINDS:
        raise ValueError
    if "Rollback-To" in said and not _HASH.fullmatch(said["Rollback-To"]):
        raise ValueError
    return Commit(
        **gits,
        kind=cast(Kind, said["Kind"]),
        batch=int(said["Batch"]) if "Batch" in said else None,
        message=message,
        data=Data(
            name=_unescape(said["Data"]),
            md5=said["Data-MD5"],
            rows=int(said["Rows"]),
            tokens=int(said["Tokens"]),
        )
        if "Data" in said
        else None,
        steps=int(said["Steps"]),
        lifetime_step=int(said["Lifetime-Step"]),
        loss=Loss(*(float(said[f"Loss-{which}"]) for which in ("First", "Last", "Mean")))
        if "Loss-First" in said
        else None,
        learning_rate=Rate(float(said["Rate-First"]), float(said["Rate-Last"]))
        if "Rate-First" in said
        else None,
        seconds=float(said["Seconds"]) if "Seconds" in said else None,
        curve=tuple(map(float, said.get("Loss-Curve", "").split())),
        rollback_to=said.get("Rollback-To"),
        gate=_gate(said["Gate"]) if "Gate" in said else None,
        warnings=tuple(_unescape(value) for key, _, value in pairs if key == "Warning"),
    )


def _gate(told: str) -> Gate:
    metric, value, md5 = told.split(" ")
    return Gate(metric, float(value), md5)
