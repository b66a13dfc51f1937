"""From what a user calls a revision to one commit.

Owns the grammar of revisions and the search by number, day and time. Refuses to guess: what names
no commit is an error that names the nearest one.

In this order: `@N`; a day; a time; whatever git resolves. So a day wins over a branch or tag of
that name (`heads/2026-11-20` still reaches such a branch).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from mvc.errors import RevisionNotFound
from mvc.store import git, history
from mvc.store.layout import SNAPSHOT_PREFIX
from mvc.types import Commit, Resolved

_NUMBER = re.compile(r"@([0-9]{1,9})")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
# git reads @{anything} as a time in its own log of where a branch was on this machine, and answers
# with the oldest entry where there is none; only its numbers and names for upstreams are exact.
_VAGUE = re.compile(r"@\{(?!-?[0-9]+\}|u\}|upstream\}|push\})")
_HASH = re.compile(r"[0-9a-f]{40,64}")
_LONGEST = 1000


def resolve(root: Path, spec: str, zone: ZoneInfo, now: datetime | None = None) -> Resolved:
    """The commit that `spec` names.

    - `@N`: batch N on this line (`@0` is its start); what is in the present state comes first.
    - `YYYY-MM-DD`, `today`, `yesterday`: that day's snapshot, else its last commit. A commit is of
      the day that a calendar in `zone` showed, be that 23, 24 or 25 hours long.
    - `YYYY-MM-DDTHH:MM[:SS]`, with `Z` or an offset if wanted: the last commit at or before it.
      Without an offset, an hour that a clock change repeats means its second pass, and one that it
      skips is where the clock jumped.
    - anything else: what git resolves.

    Days and times look at the first-parent line of HEAD; where HEAD is detached, at the lines of
    the branches that contain it. Of two commits in one second the later in the line is the last.

    Args:
        root: The model repo.
        spec: What the user wrote.
        zone: Of days, and of times that carry no offset.
        now: What `today` is taken from; the clock by default.

    Raises:
        RevisionNotFound: it names no commit, or more than one; the hint names the nearest.
    """
    if not spec.strip() or not spec.isprintable() or spec.startswith("-") or len(spec) > _LONGEST:
        raise RevisionNotFound(f"{spec[:80]!r} names no revision", _GRAMMAR)
    if found := _NUMBER.fullmatch(spec):
        return _by_number(root, spec, int(found[1]))
    if spec in ("today", "yesterday"):
        today = (now or datetime.now(zone)).astimezone(zone).date()
        return _by_day(root, spec, today - timedelta(days=spec == "yesterday"), zone)
    if _DAY.fullmatch(spec):
        return _by_day(root, spec, _parsed(spec, spec).date(), zone)
    if found := _TIME.fullmatch(spec):
        return _by_time(root, spec, _parsed(spec, f"{found[1]}T{found[2]}{found[3] or ''}"), zone)
    return _by_git(root, spec)


_GRAMMAR = (
    "write @N (a batch), a day (2026-11-20), a time (2026-11-20T14:00), a branch or a hash; "
    "`mvc log` lists them"
)


def _parsed(spec: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise RevisionNotFound(f"`{spec}` is not in the calendar: {error}", _GRAMMAR) from error


# --- by number ----------------------------------------------------------------------------------


def _by_number(root: Path, spec: str, number: int) -> Resolved:
    for each in _present_first(root):
        if _number(each) == number:
            return _numbered(spec, each)
    lines = _lines(root)
    matches = {each.commit: each for line in lines for each in line if _number(each) == number}
    if len(matches) == 1:
        return _numbered(spec, *matches.values())
    if matches:
        names = ", ".join(each.short for each in matches.values())
        raise RevisionNotFound(
            f"`{spec}` is not on this line, and several branches from here have one: {names}",
            f"name it by its hash, or go to a branch first with `mvc checkout {_a_branch(root)}`",
        )
    known = {n: each for line in lines for each in line if (n := _number(each)) is not None}
    if not known:
        raise RevisionNotFound(f"no batch {number}: this line has none", _GRAMMAR)
    near = min(known, key=lambda n: (abs(n - number), n))
    raise RevisionNotFound(
        f"no batch {number} on this line, which goes from @{min(known)} to @{max(known)}",
        f"the nearest is `@{near}` ({known[near].message.splitlines()[0]}); `mvc log` lists all",
    )


def _present_first(root: Path) -> Iterator[Commit]:
    """What the present state has learned, then what a rollback on this line left out of it."""
    yield from history.effective_line(root)
    yield from history.log(root)


def _number(commit: Commit) -> int | None:
    """What stands after the `@`, if this commit has it."""
    return 0 if commit.kind == "init" else commit.batch if commit.kind == "batch" else None


def _numbered(spec: str, commit: Commit) -> Resolved:
    how = f"batch {commit.batch} of this line" if commit.batch else "the start of this line"
    return Resolved(spec, commit.commit, None, how)


# --- by day and time ----------------------------------------------------------------------------


def _by_day(root: Path, spec: str, day: date, zone: ZoneInfo) -> Resolved:
    pinned = git.try_read(
        root, "rev-parse", "--verify", f"refs/tags/{SNAPSHOT_PREFIX}{day}^{{commit}}"
    )
    if pinned:
        return Resolved(spec, pinned, None, f"snapshot of {day}")
    # By the calendar, not between two midnights: those may be skipped, or pass twice.
    commits = _by_age(root)
    days = [each.time.astimezone(zone).date() for each in commits]
    for each, its_day in zip(reversed(commits), reversed(days), strict=True):
        if its_day == day:
            at = each.time.astimezone(zone)
            how = f"last commit of {day} ({at:%H:%M}), there is no snapshot of that day"
            return Resolved(spec, each.commit, None, how)
    pins = [date.fromisoformat(each.day) for each in history.snapshots(root)]
    earlier = max((other for other in (*days, *pins) if other < day), default=None)
    later = min((other for other in (*days, *pins) if other > day), default=None)
    near = [f"`{other}`" for other in (earlier, later) if other]
    raise RevisionNotFound(
        f"no snapshot and no commit of {day} (days of {zone})",
        f"the nearest days with one are {' and '.join(near)}"
        if len(near) == 2
        else f"the nearest day with one is {near[0]}"
        if near
        else _GRAMMAR,
    )


def _by_time(root: Path, spec: str, wanted: datetime, zone: ZoneInfo) -> Resolved:
    commits = _by_age(root)
    for each in reversed(commits):
        local = each.time.astimezone(zone)
        if wanted.tzinfo is not None:
            reached = local <= wanted
        else:
            # The second pass of a repeated hour; a skipped one would be an hour early by that
            # rule, so what the clock showed counts as well.
            reached = each.time <= wanted.replace(tzinfo=zone, fold=1) or (
                local.replace(tzinfo=None) <= wanted
            )
        if reached:
            return Resolved(
                spec, each.commit, None, f"last commit at or before {spec} ({_when(each, zone)})"
            )
    if not commits:
        raise RevisionNotFound(f"no commit at or before {spec}", _GRAMMAR)
    first = commits[0]
    number = _number(first)
    name = first.short if number is None else f"@{number}"
    raise RevisionNotFound(
        f"no commit at or before {spec} (times of {zone})",
        f"the first one is `{name}`, of {_when(first, zone)}",
    )


def _when(commit: Commit, zone: ZoneInfo) -> str:
    return commit.time.astimezone(zone).isoformat(" ")


def _by_age(root: Path) -> list[Commit]:
    """The candidates for days and times, oldest first; in one second, as they lie in their line."""
    oldest_first = {each.commit: each for line in _lines(root) for each in reversed(line)}
    return sorted(oldest_first.values(), key=lambda each: each.time)


def _lines(root: Path) -> list[list[Commit]]:
    """HEAD's first-parent line, or those of the branches that contain a detached HEAD."""
    if git.try_read(root, "symbolic-ref", "-q", "HEAD") is None:
        return [history.log(root, ref) for ref in _branches(root)] or [history.log(root)]
    return [history.log(root)]


def _branches(root: Path) -> list[str]:
    told = git.try_read(
        root, "for-each-ref", "--contains=HEAD", "--format=%(refname)", "refs/heads"
    )
    return git.lines(told or "")


def _a_branch(root: Path) -> str:
    return _branches(root)[0].removeprefix("refs/heads/")


# --- by git -------------------------------------------------------------------------------------


def _by_git(root: Path, spec: str) -> Resolved:
    cause: Exception | None = None
    try:
        found = (
            ""
            if _VAGUE.search(spec)
            else git.read(root, "rev-parse", "--verify", "--end-of-options", f"{spec}^{{commit}}")
        )
    except git.GitFailed as error:
        found, cause = "", error
    # ^HEAD and HEAD^@ come back as something else than one hash.
    if _HASH.fullmatch(found):
        full = git.try_read(root, "rev-parse", "--verify", "--symbolic-full-name", spec) or ""
        branch = full.removeprefix("refs/heads/") if full.startswith("refs/heads/") else None
        return Resolved(spec, found, branch, _said(full, spec, found))
    if isinstance(cause, git.GitFailed) and "is ambiguous" in cause.stderr:
        message, hint = f"`{spec}` begins several hashes", "type more of it"
    else:
        message = f"`{spec}` names no revision"
        close = difflib.get_close_matches(spec, _names(root), n=1)
        hint = f"did you mean `{close[0]}`? `mvc log` lists what there is" if close else _GRAMMAR
    raise RevisionNotFound(message, hint) from cause


def _said(full: str, spec: str, commit: str) -> str:
    for prefix, kind in (
        ("refs/heads/", "branch"),
        ("refs/tags/", "tag"),
        ("refs/remotes/", "remote branch"),
    ):
        if full.startswith(prefix):
            return f"{kind} {full.removeprefix(prefix)}"
    return f"commit {commit[:10]}" + ("" if commit.startswith(spec) else f" ({spec})")


def _names(root: Path) -> list[str]:
    told = git.try_read(
        root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes"
    )
    return git.lines(told or "")
